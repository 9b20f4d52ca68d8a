"""Our layers against those of `transformers`: the cases, as both sides read them.

Importable without torch. `make_vectors` runs the reference, `layers` runs ours, and both name what
they make in the same way, one flat dict of arrays a case:

    input/NAME, weight/NAME             what goes in (weights under the reference's names)
    cotangent/NAME                      random, one for each output
    output/NAME                         what comes out
    gradient/input/NAME, gradient/weight/NAME
"""

import pathlib
from typing import Any, NamedTuple

STORED = pathlib.Path(__file__).with_name("vectors.npz")

BATCH, D_MODEL, VOCAB = 2, 12, 5
WINDOWS, STEPS = 2, 2  # of "gradient_steps": windows read before the last, and steps on each


class Case(NamedTuple):
    """One layer at one size.

    Attributes:
      layer: a key of `layers.LAYERS` and of `make_vectors.REFERENCES`.
      length: T, tokens.
      sizes: fields of our configuration of that layer.
      norm_eps: large, so that an eps in the wrong place is seen.
      scale: of the input; a small one shows the eps of the l2 norm.
    """

    layer: str
    length: int
    sizes: dict[str, Any] = {}
    norm_eps: float = 1e-2
    scale: float = 1.0


_SQUARE = dict(key_heads=2, value_heads=2, key_dim=6, value_dim=4)
_GROUPED = dict(key_heads=2, value_heads=4, key_dim=4, value_dim=3)
_GQA = dict(heads=4, kv_heads=2, head_dim=6)

CASES = {
    **{f"gdn_{n}": Case("gated_delta_net", n, _SQUARE) for n in (7, 24, 70)},
    **{f"gdn_grouped_{n}": Case("gated_delta_net", n, _GROUPED) for n in (7, 24, 70)},
    "gdn_small_input": Case("gated_delta_net", 7, _GROUPED, scale=1e-3),
    "rule_with_state": Case("gated_delta_rule", 70, _GROUPED),
    "attention_gqa": Case("attention", 12, dict(_GQA, rope_theta=500.0)),
    "attention_qk_norm": Case("attention", 12, dict(_GQA, rope_theta=10_000.0, qk_norm=True)),
    "swiglu": Case("swiglu", 5, dict(hidden=24)),
    "rms_norm": Case("rms_norm", 5),
    "decoder": Case("decoder", 9, dict(_GQA, rope_theta=10_000.0, hidden=24, blocks=2)),
    "gradient_steps": Case("gradient_steps", 7, dict(_GQA, rope_theta=10_000.0, hidden=24)),
}
