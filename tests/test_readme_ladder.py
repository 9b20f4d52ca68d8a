"""What README and experiments/results say of runs that climb from t to t + 1."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from experiments.report import claims_depth_cost, claims_stop, ladder, needed
from experiments.report.summary import student_t_half
from experiments.report.verdicts import Verdict
from tests.test_readme import FOUND, README, RESULTS, committed, flat, section, tables


def test_how_far_a_ladder_goes():
    text = flat(section(RESULTS, "How far does it go?"))
    (shown,) = tables(section(RESULTS, "How far does it go?"))
    source = committed("rollout_ladder/far")
    for line, row in zip(shown[2:], source.rows, strict=True):
        taken = [f"{point['train_flops'] / 1e12:.2f}" for point in ladder.learned(row)]
        limit = [f"> {row['train_flops'] / 1e12:.2f}"] * (len(shown[0]) - 1 - len(taken))
        assert line == [f"N = {row['passes']}", *taken, *limit]
    for passes in (1, 2):
        groups = [g for g in source.summary if g["passes"] == passes and all(g["reached"])]
        steps = [b["flops"][0] - a["flops"][0] for a, b in pairwise(groups)]
        assert f"{', '.join(needed.trillions(step) for step in steps)}e12 for" in text
        strings = groups[-1]["tokens"][0] / 100 * 4 / 1e6  # of 100 tokens, 4 strings
        assert f"N = {passes} {'had seen ' * (passes == 1)}{strings:.1f} million" in text
    one = source.rows[0]
    last = [point for point in one["curve"] if point["rung"] == 7]
    scores = sorted(point["exact_accuracy"] for point in last)
    assert (
        f"({scores[0]:.2f} to {scores[-1]:.2f}, floor {last[0]['floor']:.3f})".replace("0.", ".")
        in text
    )
    (left,) = (p for p in one["curve"] if p["learned"] and p["rung"] == 6)
    flops = one["train_flops"] - left["train_flops"]
    tokens = one["train_tokens"] - left["train_tokens"]
    assert f"{flops / 1e12:.1f}e12 FLOPs and {tokens / 1e6:.0f} million tokens later" in text


def test_how_deep_each_n_gets():
    text = flat(section(RESULTS, "How deep does each N get?"))
    groups = committed("rollout_ladder/deep").summary
    by_depth = {(g["depth"], g["passes"]): g for g in groups}
    assert [sum(by_depth[4, n]["reached"]) for n in (1, 2)] == [1, 5]
    pairs = [(by_depth[t, 1], by_depth[t, 2]) for t in range(1, 6)]
    assert not any(needed.less(a, b) or needed.less(b, a) for a, b in pairs)
    apart = [t for t, (one, two) in enumerate(pairs, start=1)
             if needed.below(two["needed_tokens"], one["needed_tokens"])]  # fmt: skip
    assert apart == [1, 2]
    two = [by_depth[t, 2]["flops"] for t in range(1, 5)]
    steps = [np.mean(np.subtract(after, before)) for before, after in pairwise(two)]
    said = "{}, {} and {}e12 for t = 2, 3 and 4".format(*map(needed.trillions, steps))
    assert said in text


def test_the_rank_test_that_was_not_announced():
    groups = committed("rollout_ladder/deep").summary
    found = []
    for depth in range(1, 6):
        taken = [
            flops if reached else np.inf
            for group in groups
            if group["depth"] == depth
            for flops, reached in zip(group["flops"], group["reached"], strict=True)
        ]
        assert len(taken) == 10  # five of N = 1, then five of N = 2
        orders = [_before(taken, two) for two in combinations(range(10), 5)]
        far = [abs(order - 12.5) >= abs(_before(taken, range(5, 10)) - 12.5) for order in orders]
        found.append(f"{np.mean(far):.2f}"[1:])
    said = "has p = {}, {}, {}, {} and {} at t = 1 to 5".format(*found)
    assert said in flat(section(RESULTS, "How deep does each N get?"))


def _before(taken, chosen):
    """In how many pairs the chosen took less than the others, ties being half (Mann-Whitney)."""
    others = [taken[i] for i in range(10) if i not in chosen]
    return sum((taken[i] < other) + 0.5 * (taken[i] == other) for i in chosen for other in others)


def tops(rows, passes):
    """How high each seed of an N got, in the order of seeds."""
    of_n = sorted((row for row in rows if row["passes"] == passes), key=lambda row: row["seed"])
    return [max(point["rung"] for point in ladder.learned(row)) for row in of_n]


def test_the_pages_say_it_too():
    rows = committed("rollout_ladder/deep").rows
    for passes, who in ((1, "one pass"), (2, "two")):
        best_first = sorted(tops(rows, passes), reverse=True)
        said = f"{who} got to t = {' '.join(map(str, best_first))}"
        assert said in flat(README) and said in FOUND
    far = committed("rollout_ladder/far").rows
    assert [tops(far, passes) for passes in (1, 2)] == [[6], [7]]
    assert "learned t = 6 and two passes t = 7" in flat(README)


def test_what_is_said_of_t_4_alone():
    one, two = committed("cost_of_depth/w24_t4").summary
    assert needed.less(two, one) and sum(one["reached"]) == 0 and sum(two["reached"]) == 5
    alone, limit = needed.quote(two, needed.trillions), one["budget_flops"] / 1e12
    assert f"every seed, with {alone}, one pass in none of five with {limit:.2f}, apart" in FOUND
    times = limit / (two["needed_flops"]["mean"] / 1e12)
    said = f"in five seeds of five, one pass in none with {times:.1f} times as many"
    assert said in flat(README)
    text = flat(section(RESULTS, "Is the ladder a help?"))
    assert f"in none with {times:.1f} times the FLOPs, apart" in text
    fit = one.get("fit")
    assert fit and f"ends with {fit['unseen']:.2f} of unseen".replace("0.", ".") in text
    (half,) = committed("cost_of_depth/w24_t4_2.5e-3").summary
    fit = half.get("fit")
    assert (
        fit and f"(one seed, announced: {fit['unseen']:.2f} at the end".replace("0.", ".") in text
    )
    (climbed,) = (
        group
        for group in committed("rollout_ladder/deep").summary
        if (group["depth"], group["passes"]) == (4, 2)
    )
    with_it = needed.quote(climbed, needed.trillions)
    assert f"Two passes take {alone} without it and {with_it} with it" in text
    assert not needed.less(two, climbed)


def test_four_blocks_on_the_ladder():
    text = flat(section(RESULTS, "Four blocks on the ladder"))
    source = committed("rollout_ladder/four_blocks")
    one, two = (" ".join(map(str, tops(source.rows, passes))) for passes in (1, 2))
    assert f"By seed one pass gets to t = {one}, two get to t = {two}" in text
    at = {(g["depth"], g["passes"]): g for g in source.summary}
    for depth in range(1, 5):
        pair = at[depth, 1], at[depth, 2]
        assert not needed.less(*pair) and not needed.less(*reversed(pair))
    for depth in (2, 3):
        ahead = [flops < min(at[depth, 2]["flops"]) for flops in at[depth, 1]["flops"]]
        assert sum(ahead) == 3
    assert max(at[1, 1]["flops"]) == pytest.approx(1e13, rel=0.05)
    assert f"{source.rows[0]['parameters'] / 1000:.0f} thousand parameters" in text


def test_with_ten_thousand_parameters():
    text = flat(section(RESULTS, "With ten thousand parameters"))
    source = committed("rollout_ladder/narrow")
    at = {(g["depth"], g["passes"]): g for g in source.summary}
    pairs = {depth: (at[depth, 1], at[depth, 2]) for depth in range(1, 7)}
    one, two = (" ".join(map(str, tops(source.rows, passes))) for passes in (1, 2))
    assert two == "6 6 6 6 6"
    for page in (text, flat(README), FOUND):
        assert f"one pass gets to t = {one}" in page
    apart = [depth for depth, pair in pairs.items() if needed.less(*reversed(pair))]
    assert apart == list(range(apart[0], 7)) and not any(needed.less(*p) for p in pairs.values())
    assert f"two passes take less at t = {apart[0]} to 6, apart" in text
    ratios = [needed.ratio(*pairs[depth]) for depth in (1, 2, 3)]
    whole = ["{:.1f} [{:.1f}, {:.1f}]".format(r["mean"], *r["ci95"] or ()) for r in ratios]
    for page in (text, FOUND):
        assert "{}, {} and {} times".format(*whole) in page
    said = "{:.1f}, {:.1f} and {:.1f} times".format(*(r["mean"] for r in ratios))
    assert said in flat(README)
    assert claims_depth_cost.falls_behind(source).verdict == Verdict.SHOWN
    assert claims_stop.one_pass_stops(source).verdict == Verdict.NOT_SHOWN
    for depth in (4, 5):
        assert not all(pairs[depth][0]["reached"])
    limits = [needed.ratio(*pairs[depth])["mean"] for depth in (4, 5)]
    assert "more than {:.1f} and {:.1f} times at t = 4 and 5".format(*limits) in text
    assert f"in every seed with {needed.quote(at[6, 2], needed.trillions)}" in FOUND
    ends = sorted((r for r in source.rows if r["passes"] == 1), key=lambda row: row["seed"])
    stands = (
        f"{r['curve'][-1]['exact_accuracy']:.2f} of t = {r['curve'][-1]['rung']}" for r in ends
    )
    assert ", ".join(stands).replace("0.", ".") in text
    tokens = pairs[1][0]["tokens"][0] / pairs[1][0]["flops"][0]
    each = tokens / (pairs[1][1]["tokens"][0] / pairs[1][1]["flops"][0])
    assert f"a token costs two passes {each:.2f} times as much" in text
    grown = []
    for passes in (1, 2):
        first, third = (np.log(at[depth, passes]["flops"]) for depth in (1, 3))
        logs = list(third - first)
        half = student_t_half(logs)
        grown.append([np.exp(np.mean(logs) + side * half) for side in (0, -1, 1)])
    one, two = ("{:.1f} [{:.1f}, {:.1f}]".format(*of) for of in grown)
    assert f"one pass takes {one} times what it takes until t = 1, two passes {two} times" in text
    assert grown[1][2] < grown[0][1]


def test_with_twice_the_flops():
    text = flat(section(RESULTS, "With twice the FLOPs"))
    source = committed("rollout_ladder/narrow_twice")
    at = {(g["depth"], g["passes"]): g for g in source.summary}
    one = " ".join(map(str, tops(source.rows, 1)))
    assert f"**One pass gets to t = {one} now: a price that grows, and no wall up to t = 5" in text
    assert f"and with twice the FLOPs to t = {one}" in flat(README)
    assert tops(source.rows, 2) == [6] * 5 and sum(at[5, 1]["reached"]) == 2
    ratios = {depth: needed.ratio(at[depth, 1], at[depth, 2]) for depth in range(1, 5)}
    times = "{:.1f} [{:.1f}, {:.1f}]".format(ratios[4]["mean"], *ratios[4]["ci95"] or ())
    assert f"learns t = 4, with {times} times" in text and f"taking {times} times" in FOUND
    assert [needed.below(ratios[depth], ratios[4]) for depth in (1, 2, 3)] == [True, False, False]
    for passes, last in ((1, 4), (2, 6)):
        means = [at[depth, passes]["needed_flops"]["mean"] for depth in range(1, last + 1)]
        *steps, end = (f"{after / before:.1f}" for before, after in pairwise(means))
        assert f"{', '.join(steps)} and {end}" in text
    assert claims_depth_cost.falls_behind(source).verdict == Verdict.SHOWN
    assert claims_stop.one_pass_stops(source).verdict == Verdict.NOT_SHOWN
    rows = sorted((r for r in source.rows if r["passes"] == 1), key=lambda row: row["seed"])
    ends = (f"{r['curve'][-1]['exact_accuracy']:.2f} of t = {r['curve'][-1]['rung']}" for r in rows)
    assert ", ".join(ends).replace("0.", ".") in text
    rises = [claims_stop.rise(row["curve"], row["budget_flops"]) for row in rows]
    rose = [f"{rise:.2f}".removeprefix("0") for rise in rises if rise is not None]
    assert "rose by {}, {} and {}.".format(*rose) in text
    far = at[6, 1]["budget_flops"] / at[6, 2]["needed_flops"]["mean"]
    assert f"With {far:.1f} times what two passes take until t = 6" in text
    assert f"with {far:.1f} times the FLOPs that two passes take until t = 6" in flat(README)
    assert not any(at[6, 1]["reached"])
