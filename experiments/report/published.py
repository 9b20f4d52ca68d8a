"""What the paper reports (arXiv 2605.26099), for reading beside our own numbers.

No number has an interval: the paper trained one seed.
"""

from typing import TypedDict

RULE_110_SETTING = "W = 24, d = 256, about 5B tokens, one seed"
GSM_SETTING = "pretrained models of 2B and 1.4B parameters, 2,000 to 3,300 tokens, one seed"
DEPO_SETTING = "75 nodes, d = 512, 10 blocks, 100k steps of batch 128, one seed"


class PublishedNumber(TypedDict):
    """One statement of the paper."""

    claim: str
    setting: str
    value: str
    section: str
    approximate: bool


def _rule_110(claim: str, setting: str, value: str) -> PublishedNumber:
    return _read_from_figure(claim, setting, value, "Rule 110 experiment")


def _depo(claim: str, value: str) -> PublishedNumber:
    return _read_from_figure(claim, "100k steps", value, "Depo experiment")


def _gsm(setting: str, operations: int, one: str, largest: str) -> PublishedNumber:
    return {
        "claim": f"accuracy at {operations} operations, N = 1, then the largest N",
        "setting": setting,
        "value": f"{one}, {largest}",
        "section": "GSM-Infinite experiment",
        "approximate": False,
    }


def _read_from_figure(claim: str, setting: str, value: str, section: str) -> PublishedNumber:
    return {
        "claim": claim,
        "setting": setting,
        "value": value,
        "section": section,
        "approximate": True,
    }


RULE_110: list[PublishedNumber] = [
    _rule_110("exact accuracy, hybrid, N = 1", "t = 32, about 5B tokens", "about 0.10"),
    _rule_110("exact accuracy, hybrid, N = 2", "t = 32, about 5B tokens", "about 0.20"),
    _rule_110("exact accuracy, hybrid, N = 3", "t = 32, about 5B tokens", "above 0.30"),
    _rule_110("exact accuracy, hybrid, N = 4", "t = 32, about 5B tokens", "above 0.30"),
    _rule_110("hybrid, N = 1, as the depth grows", "t = 4 to t = 16", "collapses"),
    _rule_110("transformer with evicted cache", "t not recorded", "does not beat chance"),
]

DEPO: list[PublishedNumber] = [
    _depo("test loss by hops k, N = 1", "stalls at k = 4 and beyond"),
    _depo("test loss by hops k, N = 2", "stalls at k = 8 and beyond"),
    _depo("test loss by hops k, N = 4", "starts to move at k = 16"),
]

_JET, _OURO, _OURO_SLIDING = (
    "Jet-Nemotron 2B, hard eviction, N = 6",
    "Ouro 1.4B, hard eviction, N = 4",
    "Ouro 1.4B, sliding window, N = 4",
)
GSM_INFINITE: list[PublishedNumber] = [
    _gsm(_JET, 6, "0.742", "0.812"),
    _gsm(_JET, 8, "0.351", "0.388"),
    _gsm(_OURO, 6, "0.419", "0.615"),
    _gsm(_OURO, 8, "0.210", "0.272"),
    _gsm(_OURO_SLIDING, 2, "0.596", "0.905"),
    _gsm(_OURO_SLIDING, 4, "0.839", "0.926"),
    _gsm(_OURO_SLIDING, 6, "0.251", "0.320"),
    _gsm(_OURO_SLIDING, 8, "0.116", "0.137"),
]
