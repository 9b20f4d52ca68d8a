"""What experiments/results says of DashAttention."""

import re

import pytest

from experiments.report import claims_routed
from experiments.report.conclusion import order
from experiments.report.verdicts import Verdict
from experiments.report.words import AS_TRAINED
from tests.test_readme import COMMITTED, README, committed, flat

TABLE = (COMMITTED / "dash_attention/cpu/table.md").read_text().splitlines()
PAGE = (COMMITTED / "dash_attention.md").read_text()
TEXT = flat(PAGE)
OVERVIEW = flat((COMMITTED / "README.md").read_text())
SOURCE = committed("dash_attention/cpu")
FOUND = {(group["name"], group["read"]): group for group in SOURCE.summary}
KINDS = {
    "sigma 1": "chunks of 4 by entmax, sigma 1",
    "sigma 1e6": "chunks of 4 by entmax, sigma 1e+06",
    "untaught": "chunks of 4 by entmax, untaught",
    "straight": "chunks of 4 by entmax, straight through",
    "all": "all of the cache",
    "best": "chunks of 4, best 2",
    "one pass": "fast weights, N = 1",
    "its flops": "fast weights, N = 1, more tokens",
    "two passes": "fast weights, N = 2",
}


def of(kind, read=AS_TRAINED):
    return FOUND[KINDS[kind], read]


def short(value, digits=3):
    return f"{value:.{digits}f}".removeprefix("0")


def score(kind, read=AS_TRAINED):
    at = of(kind, read)["recall"]
    return f"{short(at['mean'])} [{', '.join(map(short, at['ci95']))}]"


def share(kind, read=AS_TRAINED):
    return short(of(kind, read)["share"]["mean"], 2)


def test_lines_are_those_of_the_table():
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(lines) == 11 and set(lines) <= set(TABLE)
    assert f"Floor: {short(of('all')['floor'])}" in TEXT
    minutes = sum(row["wall_seconds"] for row in SOURCE.results["rows"]) / 60
    assert f"{minutes:.0f} minutes of run time" in TEXT and SOURCE.results["commit"] in TEXT


@pytest.mark.parametrize(
    "said",
    [
        f"has {score('sigma 1')} and reads {share('sigma 1')} of the cache",
        f"sigma = 1e6 {score('sigma 1e6')} with {share('sigma 1e6')}",
        f"any gradient to the routing {score('untaught')} with {share('untaught')}",
        f"nothing of the prior, {score('straight')}",
        f"sigma = 1 recalls {score('sigma 1', 'gamma 8')} with {share('sigma 1', 'gamma 8')}",
        f"gamma = 32 {score('sigma 1', 'gamma 32')} with {share('sigma 1', 'gamma 32')}",
        f"everything has {score('all', 'gamma 8')} and "
        f"{short(of('all', 'gamma 32')['recall']['mean'])} there",
        f"its best two chunks {score('all', 'best 2')}",
        f"sigma = 1e6 recalls {score('sigma 1e6', 'gamma 4')} at {share('sigma 1e6', 'gamma 4')}",
        f"trained from scratch: {score('best')} with {share('best')}",
        f"with {share('sigma 1', 'gamma 16')} of it ({score('sigma 1', 'gamma 16')})",
        f"reads the pair of {short(of('sigma 1e6')['found'])} of the questions",
        f"one pass recalls {score('one pass')} from half the bytes",
        f"two passes {score('its flops')}; two passes {score('two passes')}",
        f"are {share('all', 'best 1')} of what came before",
    ],
)
def test_sentences(said):
    assert said in TEXT


def test_what_is_apart_and_what_is_not():
    def above(one, other):
        pair = ({"exact_accuracy": group["recall"], **group} for group in (one, other))
        return order(*pair) > 0

    assert above(of("sigma 1"), of("sigma 1e6")) and not above(of("sigma 1e6"), of("untaught"))
    little = of("sigma 1", "gamma 16")
    assert little["share"]["mean"] < min(
        group["share"]["mean"] for group in (of("best"), of("sigma 1e6", "gamma 4"))
    )
    assert above(little, of("best")) and above(little, of("sigma 1e6", "gamma 4"))
    for judge in (
        claims_routed.close_to_full,
        claims_routed.above_top_k,
        claims_routed.taught_is_above_untaught,
    ):
        assert judge(SOURCE).verdict is Verdict.NOT_SHOWN
    late, early = (sorted(of(kind)["learned"]) for kind in ("all", "sigma 1"))
    assert all(a <= b for a, b in zip(early, late, strict=True))  # "no later"
    assert 2 * of("one pass")["state_bytes"] == of("all")["state_bytes"]


def test_the_front_page_and_the_overview_say_the_same():
    (row,) = re.findall(r"^\| `dash_attention` .*$", README, flags=re.MULTILINE)
    assert f"{short(of('sigma 1', 'gamma 8')['recall']['mean'])} of the pairs from a quarter" in row
    assert f"fast weights {short(of('one pass')['recall']['mean'])} from half the bytes" in row
    for said in (
        f"recalls {score('sigma 1')} with sigma = 1",
        f"and {score('sigma 1', 'gamma 8')} when it is then made to read",
        f"read {share('sigma 1', 'gamma 8')} of it",
        f"sigma = 1e6 {score('sigma 1e6')}, not apart from {score('untaught')}",
        f"the best two chunks {score('best')}",
        f"one pass, recall {score('one pass')} from half the bytes",
    ):
        assert said in OVERVIEW
