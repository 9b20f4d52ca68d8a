"""What the paper reports (arXiv 2605.26099), for reading beside our own numbers.

Every number was read from a figure and has no interval: the paper trained one seed.
"""

from typing import TypedDict

RULE_110_SETTING = "W = 24, d = 256, about 5B tokens, one seed"
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
