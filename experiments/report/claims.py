"""All claims, the paper's and ours, in the order in which a reader meets them."""

from experiments.report import (
    claims_choices,
    claims_cost,
    claims_depth,
    claims_depth_cost,
    claims_latents,
    claims_planes,
    claims_restored,
    claims_routed,
    claims_rule110,
    claims_seeded,
    claims_stop,
    claims_strings,
)
from experiments.report.verdicts import Claim

_MODULES = (
    claims_rule110,
    claims_depth_cost,
    claims_stop,
    claims_strings,
    claims_depth,
    claims_cost,
    claims_latents,
    claims_routed,
    claims_choices,
    claims_restored,
    claims_planes,
    claims_seeded,
)
PAPER: tuple[Claim, ...] = tuple(claim for module in _MODULES for claim in module.CLAIMS)
OURS: tuple[Claim, ...] = tuple(claim for module in _MODULES for claim in module.OUR_CLAIMS)
