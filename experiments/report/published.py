"""What the paper reports for Rule 110 (arXiv 2605.26099), for reading beside our own numbers.

Every number was read from a figure and has no interval: the paper trained one seed.
"""

from typing import TypedDict

PAPER_SETTING = "W = 24, d = 256, about 5B tokens, one seed"


class PublishedNumber(TypedDict):
    """One statement of the paper."""

    claim: str
    setting: str
    value: str
    section: str
    approximate: bool


def _rule_110(claim: str, setting: str, value: str) -> PublishedNumber:
    return {
        "claim": claim,
        "setting": setting,
        "value": value,
        "section": "Rule 110 experiment",
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
