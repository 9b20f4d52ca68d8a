"""What each N needs to learn a depth, as README and experiments/results/*.md have it."""

from itertools import permutations

import numpy as np
import pytest

from experiments.report import depth_cost, needed, needs, sources
from sleep_jax.tasks.rule110 import Rule110Config, split_of
from sleep_jax.tasks.task import SPLITS
from tests.test_readme import COMMITTED, FOUND, README, RESULTS, committed, flat, section, tables

MARKED = [f"cost_of_depth/{name}" for name in ("marked", "marked_t3", "marked_t4")]


WIDTHS = [
    f"cost_of_depth/{name}"
    for name in ("narrow_mlp", "mlp32_t4", "mlp32_unmarked_t4", "marked_t4", "deep")
]


def test_what_each_n_needs_in_short():
    (shown,) = tables(section(README, "What we have found so far"))
    first, _ = needs.parted(needs.lines(sources.committed(COMMITTED)))
    assert shown[0] == needs.header(first) and len(shown) == 14
    assert all(line in needs.cells(first) for line in shown[2:])
    names = ("cpu", "cpu", "deep", "deep_2.5e-3")
    sets = [depth_cost.compared(committed(f"cost_of_depth/{name}").summary) for name in names]
    pairs = [sets[0][0][:2], sets[1][1][:2], sets[2][0][:2], sets[3][0]]
    assert [one["depth"] for one, _ in pairs] == [1, 2, 3, 4]
    factors = [f"{needed.ratio(one, two)['mean']:.1f}" for one, two in pairs]
    assert (
        "two passes take {}, {}, {} and {} times fewer FLOPs at t = 1, 2, 3, 4".format(*factors)
        in FOUND
    )
    last = (needed.quote(group, needed.trillions) for group in pairs[3])
    assert "then N = 1 takes {} and N = 2 {}.".format(*last) in FOUND
    assert f"{factors[2]} to {factors[3]} times fewer FLOPs at t = 2 to 4" in flat(README)
    two_blocks, four_blocks = committed("cost_of_depth/passes_or_blocks").summary
    ratio = needed.ratio(four_blocks, two_blocks)
    times = "{:.2f} [{:.2f}, {:.2f}]".format(ratio["mean"], *ratio["ci95"] or ())
    for text in (FOUND, flat(section(RESULTS, "What does each N need to learn a depth?"))):
        assert f"{times} times" in text
    one, two = committed("cost_of_depth/narrow_mlp_w16_t5").summary
    assert f"(W = 16, three seeds: {quoted(two)} and {quoted(one)})" in FOUND
    text = flat(section(RESULTS, "How wide the MLPs are"))
    said = (f"N = {n} {quoted(g)}, by seed {by_seed(g)}" for n, g in ((1, one), (2, two)))
    assert ", ".join(said) in text
    assert not needed.less(one, two) and not needed.less(two, one)


@pytest.mark.parametrize(
    "title, names",
    [
        ("What does each N need to learn a depth?", ["cost_of_depth/cpu", "cost_of_depth/deep"]),
        ("Wider strings: W = 16", ["cost_of_depth/w16", "cost_of_depth/w16_t3"]),
        ("With a mark before every string", MARKED),
        ("How wide the MLPs are", WIDTHS[:3]),
        ("With the paper's four blocks", ["cost_of_depth/four_blocks"]),
        ("How deep does each N get?", ["rollout_ladder/deep"]),
        ("With ten thousand parameters", ["rollout_ladder/narrow"]),
        ("With twice the FLOPs", ["rollout_ladder/narrow_twice"]),
        ("Four blocks on the ladder", ["rollout_ladder/four_blocks"]),
        ("Is the ladder a help?", ["cost_of_depth/w24_t4"]),
        ("What does each N need to follow two edges?", ["cost_of_depth_depo/cpu"]),
        ("Gradient steps instead of passes", ["ttt_e2e/cpu"]),
        ("Eight nodes", ["ttt_e2e/eight_nodes"]),
    ],
)
def test_cost_of_depth_by_seed(title, names):
    (shown,) = tables(section(RESULTS, title))
    columns = [depth_cost.HEADER.index(name) for name in shown[0]]
    assert len(columns) == 7
    lines = [line for name in names for line in depth_cost.lines(committed(name).summary)]
    assert shown[2:] == [[line[i] for i in columns] for line in lines]


@pytest.mark.parametrize(
    "title, name",
    [
        ("What does each N need to learn a depth?", "deep_2.5e-3"),
        ("With the paper's four blocks", "four_blocks_t5"),
        ("At t = 5, seen and unseen", "deep_t5"),
    ],
)
def test_cost_of_depth_in_a_sentence(title, name):
    text = flat(section(RESULTS, title))
    groups = committed(f"cost_of_depth/{name}").summary
    needs = (f"{depth_cost.name(group)} {needed.quote(group)}" for group in groups)
    assert ", ".join(needs) in text
    seeds = (line[depth_cost.HEADER.index("by seed, 1e12")] for line in depth_cost.lines(groups))
    assert "By seed N = 1 takes {}, N = 2 {}".format(*seeds) in text


def strings_of(width: int, split: str) -> int:
    """How many of the 2^W strings a split has."""
    owners = split_of(np.arange(2**width, dtype=np.uint64), Rule110Config(width=width))
    return int((owners == SPLITS[split]).sum())


def test_what_was_seen_and_what_was_not():
    (shown,) = tables(section(RESULTS, "At t = 5, seen and unseen"))
    source = committed("cost_of_depth/deep_t5")
    groups, rows = source.summary, source.results["rows"]
    taken = (line[depth_cost.HEADER.index("by seed, 1e12")] for line in depth_cost.lines(groups))
    scores = [
        (last["trained_exact_accuracy"], last["exact_accuracy"])
        for row in rows
        for last in row["curve"][-1:]
    ]
    assert [line[2] for line in shown[2:]] == " ".join(taken).split()
    assert [tuple(line[3:]) for line in shown[2:]] == [(f"{a:.2f}", f"{b:.2f}") for a, b in scores]
    text = flat(section(RESULTS, "At t = 5, seen and unseen"))
    width = rows[0]["width"]
    trained, tested = (strings_of(width, split) for split in ("train", "test"))
    assert (
        f"{2**width:,} strings, of which {trained:,} are trained on and {tested:,} tested" in text
    )
    by_heart = {
        (row["passes"], row["seed"]): next(
            (point["train_flops"] / 1e12, f"{point['exact_accuracy']:.2f}"[1:])
            for point in row["curve"]
            if point.get("trained_exact_accuracy", 0) >= 0.95
        )
        for row in rows
        if row["seed"] != 10
    }
    flops, unseen = by_heart[1, 11]
    assert f"has .95 of what it sees right after {flops:.1f}e12, and then {unseen} of what" in text
    assert f"their .95 at {by_heart[2, 11][1]} and {by_heart[2, 12][1]}, and" in text
    told = "answers {:.2f} of the sequences it trained on and {:.2f} of others".format(*scores[1])
    assert told in FOUND


def test_wider_strings_are_seen_less_often():
    text = flat(section(RESULTS, "Wider strings: W = 16"))
    strings = {width: strings_of(width, "train") for width in (12, 16)}
    assert f"65,536 strings, of which {strings[16]:,} are trained on" in text
    seen = []
    for name, width in (("cost_of_depth/cpu", 12), ("cost_of_depth/w16", 16)):
        config = Rule110Config(width=width, window=width)
        tokens = config.strings * (width + 1)  # of a sequence
        seen += [
            group["needed_tokens"]["mean"] / tokens * config.strings / strings[width]
            for group in committed(name).summary
            if group["depth"] == 2 and group["passes"] in (1, 2)
        ]
    assert (
        "{:.0f} and {:.0f} times at W = 12, {:.0f} and {:.0f} times at W = 16".format(*seen) in text
    )
    column = depth_cost.HEADER.index("N = 1 takes, times")
    times = [
        depth_cost.lines(committed(f"cost_of_depth/{name}").summary)[1][column].partition(" [")[0]
        for name in ("w16", "w16_t3")
    ]
    two, three = (f"{float(one):.1f}" for one in times)
    assert f"at W = 16 {two} times at t = 2 and {three} times at t = 3" in FOUND
    assert f"The factor is what it was, {two} and {three} where" in text
    scouts = (committed(f"cost_of_depth/w16_t3_scout_{r}").summary[0] for r in ("5e-3", "2.5e-3"))
    assert all(needed.quote(group).strip("> ") in text for group in scouts)
    one, two = committed("cost_of_depth/w16_t3").summary
    assert max(two["flops"]) < min(one["flops"])
    for name in ("w16", "w16_t3"):
        ends = [
            row["curve"][-1]
            for row in committed(f"cost_of_depth/{name}").rows
            if row["passes"] == 1
        ]
        for score in ("trained_exact_accuracy", "exact_accuracy"):
            assert " ".join(f"{end[score]:.2f}"[1:] for end in ends) in text


def test_with_a_mark_a_second_pass_is_not_shown_to_pay():
    """Nor is one pass shown to take less than without one; N = 2 takes what it took."""
    pairs = [committed(name).summary for name in MARKED]
    assert [one["depth"] for one, _ in pairs] == [2, 3, 4]
    for one, two in pairs:
        assert (one["passes"], two["passes"]) == (1, 2)
        assert not needed.less(two, one) and not needed.less(one, two)
        assert f"{quoted(one)} and {quoted(two)} at t = {one['depth']}" in FOUND
    unmarked = {
        (group["depth"], group["passes"]): group
        for name in ("cpu", "deep")
        for group in committed(f"cost_of_depth/{name}").summary
    }
    text = flat(section(RESULTS, "With a mark before every string"))
    for marked in (group for pair in pairs for group in pair):
        before = unmarked[marked["depth"], marked["passes"]]
        assert marked["seeds"] == before["seeds"]
        assert not needed.less(marked, before) and not needed.less(before, marked)
        assert needed.trillions(before["needed_flops"]["mean"]) in text
    without = quoted(unmarked[4, 1])
    assert f"took {without} at t = 4 without it at the same rate" in FOUND
    factors = (f"{needed.ratio(one, two)['mean']:.1f}" for one, two in pairs)
    assert "is {}, {} and {}.".format(*factors) in text


def by_width():
    """N = 1 and 2 at t = 4 by marking and hidden units."""
    found = {}
    for source in map(committed, WIDTHS):
        config = source.results["config"]
        key = config.get("task.marked", False), config["model.mlp_hidden"]
        found[key] = [
            group for group in source.summary if group["depth"] == 4 and group["passes"] < 4
        ]
    return found


def test_which_width_suits_which_n():
    (shown,) = tables(section(RESULTS, "Which width suits which N"))
    found = by_width()
    assert len(found) == 5
    assert shown[2:] == [
        ["marked" if marked else "not marked", str(hidden), *map(quoted, found[marked, hidden])]
        for marked, hidden in sorted(found, key=lambda key: (not key[0], key[1]))
    ]
    few, enough = found[True, 2], found[True, 32]
    assert needed.less(few[1], few[0])
    assert not needed.less(enough[1], enough[0]) and needed.less(enough[0], few[0])
    factor = needed.ratio(*enough)["ci95"]
    assert factor and factor[0] < 1 and factor[1] < 2
    # In a sentence: README's table has the same numbers.
    words = (
        "two passes take {} at t = 4 and one {}, apart; **with 32**, which suits one pass best, "
        "{} and {},"
    )
    said = words.format(*(quoted(pair[n]) for pair in (few, enough) for n in (1, 0)))
    times = needed.ratio(*enough)["mean"]
    assert f"{said} {times:.2f} [{factor[0]:.2f}, {factor[1]:.2f}] times, not apart." in FOUND
    bare = found[False, 32]
    assert f"no token it is {quoted(bare[1])} and {quoted(bare[0])}, not apart." in FOUND


def test_whether_a_mark_is_something_to_attend_to():
    (shown,) = tables(section(RESULTS, "Is a mark something to attend to?"))
    names = ("mlp32_unmarked_t4", "mlp32_sink_t4", "mlp32_t4")
    neither, sink, mark = groups = [committed(f"cost_of_depth/{n}").summary[0] for n in names]
    assert [(group["passes"], group["depth"]) for group in groups] == [(1, 4)] * 3
    seeds = depth_cost.HEADER.index("by seed, 1e12")
    assert [line[1:] for line in shown[2:]] == [
        [quoted(group), depth_cost.lines([group])[0][seeds]] for group in groups
    ]
    for one, other in permutations(groups, 2):
        assert needed.less(one, other) == (one is mark and other is neither)


def test_what_a_pass_hands_on():
    """Beside N = 2 of the preset, which has the same seeds, split and rate."""
    every = next(
        group
        for group in committed("cost_of_depth/cpu").summary
        if (group["passes"], group["depth"]) == (2, 2)
    )
    (features,), (fast,) = (
        committed(f"cost_of_depth/carry_{name}").summary for name in ("features", "fast_weights")
    )
    assert [group["seeds"] for group in (features, fast)] == [every["seeds"]] * 2
    results = flat(section(RESULTS, "What does a pass hand on?"))
    for text in (results, FOUND):
        for group in (every, features, fast):
            assert quoted(group) in text
    assert not needed.less(features, every) and not needed.less(every, features)
    assert needed.less(every, fast) and needed.less(features, fast)
    seeds = (" ".join(f"{x / 1e12:.2f}" for x in group["flops"]) for group in (every, features))
    ends = (
        f"{row['exact_accuracy']:.2f}"[1:]
        for row in committed("cost_of_depth/carry_fast_weights").rows
        if not row["reached"]
    )
    assert f"the others end at {' '.join(ends)}." in results
    scouts = committed("cost_of_depth_depo/carry_features_scout").summary
    assert "{:.2e} and {:.2e} with features".format(*scouts[0]["flops"]).replace("+", "") in results
    assert all(one in results for one in seeds)


def test_what_a_pass_hands_on_with_four_blocks_and_on_depo():
    """Beside N = 2 of the same seeds; the words hold only while nothing else is apart."""
    text = section(RESULTS, "What does a pass hand on?")
    _, shown = tables(text)
    text = flat(text)
    lines, ones, dearer = [], [], []
    for every, suffix in (
        ("cost_of_depth/four_blocks", "_four_blocks"),
        ("cost_of_depth_depo/cpu", ""),
    ):
        place = every.partition("/")[0]
        both = {(g["depth"], g["passes"]): g for g in committed(every).summary}
        features, fast = (
            {g["depth"]: g for g in committed(f"{place}/carry_{name}{suffix}").summary}
            for name in ("features", "fast_weights")
        )
        for depth, alone in features.items():
            one, two = (both[depth, passes] for passes in (1, 2))
            groups = [two, alone, *([fast[depth]] if depth in fast else [])]
            assert all(group["seeds"] == two["seeds"] for group in groups)
            assert not any(needed.less(a, b) for a in groups for b in groups)
            assert not any(needed.less(group, one) for group in groups)
            dearer += [(one, group) for group in groups if needed.less(one, group)]
            ones.append(needed.trillions(one["needed_flops"]["mean"]))
            cells = [cell for group in groups for cell in (quoted(group), by_seed(group))]
            lines.append(cells if depth in fast else [*cells, *["not run"] * 2])
    assert [line[1:] for line in shown[2:]] == lines
    assert "({} and {} with four blocks, {} on Depo)".format(*ones) in text
    ((one, fast),) = dearer
    assert f"more than one pass, apart ({quoted(fast)} and {quoted(one)})" in text
    said = "features alone are not apart from all of sleep either, nor are fast weights"
    assert said in FOUND


def quoted(group):
    return needed.quote(group, needed.trillions)


def by_seed(group):
    return depth_cost.lines([group])[0][depth_cost.HEADER.index("by seed, 1e12")]


def test_cost_of_depth_by_blocks_other_rates_and_other_seeds():
    text = flat(section(RESULTS, "What does each N need to learn a depth?"))
    for group in committed("cost_of_depth/passes_or_blocks").summary:
        assert needed.quote(group) in text
    old = {(g["passes"], g["depth"]): g for g in committed("cost_of_depth/rates_of_t2").summary}
    two, four = ([needed.quote(old[n, t]).partition(" [")[0] for t in (3, 4)] for n in (2, 4))
    assert "N = 2 at {} and {}".format(*two) in text
    assert "N = 4 at {} and {}".format(*four).replace("> ", "more than ") in text
    again = committed("cost_of_depth/seeds_0_to_2").summary
    ratios = [
        f"{needed.ratio(one, two)['mean']:.1f}" for one, two, *_ in depth_cost.compared(again)
    ]
    assert f"have {ratios[0]}, {ratios[1]} and {ratios[2]} times" in text


def steps_and_passes():
    """By N; the two sources have one task, split, budget and seeds, so they may be compared."""
    return [
        {group["passes"]: group for group in committed(name).summary}
        for name in ("ttt_e2e/cpu", "cost_of_depth_depo/cpu")
    ]


def test_the_first_edge_costs_steps_and_passes_alike():
    steps, passes = steps_and_passes()
    results = flat(section(RESULTS, "The first edge and the second"))
    both = {"passes": passes, "gradient steps": steps}
    first = {
        name: {n: one["easier"][0] for n, one in groups.items()} for name, groups in both.items()
    }
    for name, by_passes in first.items():
        quoted = (needed.quote(one, needed.trillions) for one in by_passes.values())
        assert f"| {name} | {' | '.join(quoted)} |" in results
    written = [
        [needed.less(first[a][n], first[b][n]) for n in (1, 2, 4)] for a, b in permutations(first)
    ]
    assert written == [[False, False, True], [False] * 3]
    assert not any(needed.less(first["gradient steps"][n], first["passes"][1]) for n in (1, 2))
    growth = (
        group["needed_flops"]["mean"] / group["easier"][0]["needed_flops"]["mean"]
        for group in (passes[1], steps[1], steps[2])
    )
    said = "one pass takes {:.1f} times as much, one step {:.1f} times, two steps {:.1f} times"
    assert said.format(*growth) in results


def test_gradient_steps_on_eight_nodes():
    one, two, steps = committed("ttt_e2e/eight_nodes").summary
    assert (one["passes"], two["passes"], steps["passes"]) == (1, 2, 2)
    assert steps["update_rule"] == "prime_mlp" and depth_cost.same_but_for_rule(two, steps)
    assert needed.less(steps, one) and needed.less(steps, two)
    ratio = needed.ratio(two, steps)
    times = "{:.1f} times less [{:.1f}, {:.1f}]".format(ratio["mean"], *ratio["ci95"] or ())
    fewest = needed.quote(steps, needed.trillions)
    texts = [FOUND, flat(section(RESULTS, "Eight nodes"))]
    assert all(times in text for text in texts)
    assert "of eight nodes they take " + fewest.replace(" ", "e12 ", 1) in texts[0].lower()
    assert not any(one["reached"]) and "one pass does not get there with 1.0e13" in FOUND
    easier = [needed.quote(group["easier"][0]) for group in (two, steps)]
    assert needed.less(two["easier"][0], steps["easier"][0])
    assert f"two passes {easier[0]}, two steps {easier[1]}, apart" in texts[1]
    quoted = (needed.quote(group) for group in committed("ttt_e2e/twelve_nodes_scout").summary)
    assert "of 12 nodes take two steps {1}, two passes {0}".format(*quoted) in texts[1]
    scout = committed("ttt_e2e/four_hops_scout").rows[0]["by_depth"]
    stands = (f"{scout[k]['exact_accuracy']:.3f}"[1:] for k in ("1", "2", "4"))
    assert "{} at one edge, {} at two and {} at four".format(*stands) in texts[1]


def test_gradient_steps_beside_passes():
    steps, passes = steps_and_passes()
    for n in (1, 2, 4):
        assert depth_cost.same_but_for_rule(steps[n], passes[n])
        assert steps[n]["seeds"] == passes[n]["seeds"]
    for n, apart in ((1, False), (2, True), (4, False)):
        assert [needed.less(steps[n], one) for one in passes.values()] == [apart] * 3
    assert not any(needed.less(one, other) for one in passes.values() for other in steps.values())
    assert needed.less(steps[2], steps[4]) and not needed.less(steps[2], steps[1])
    assert all(passes[2]["reached"]) is False and max(steps[2]["flops"]) < min(passes[2]["flops"])
    short = [
        "{:.1f} {:.1f} {:.1f}".format(ratio["mean"], *ratio["ci95"] or ())
        for ratio in (needed.ratio(passes[n], steps[2]) for n in (1, 4))
    ]
    assert short == ["5.3 2.9 9.5", "5.5 4.0 7.7"]
    in_trillions = [needed.quote(steps[n], needed.trillions) for n in (2, 1, 4)]
    assert in_trillions[0] == "0.98 [0.74, 1.21]"
    assert [text.split()[0] for text in in_trillions[1:]] == ["2.85", "2.85"]
    readme, results = FOUND, flat(section(RESULTS, "Gradient steps instead of passes"))
    assert "0.98e12 FLOPs [0.74, 1.21], 5.3 times less than one pass [2.9, 9.5]" in readme
    assert "5.5 times less than four [4.0, 7.7]" in readme
    assert (
        "5.3 times less than one pass takes [2.9, 9.5], 5.5 times less than four [4.0, 7.7]"
        in results
    )
    assert "One step and four take 2.85e12 each" in readme
    scout = committed("cost_of_depth/gradient_steps_scout").rows
    stands = {n: [f"{row['exact_accuracy']:.2f}"[1:] for row in scout if row["passes"] == n]
              for n in (1, 2)}  # fmt: skip
    assert "N = 1 stands at {} and {}, N = 2 at {} and {}".format(*stands[1], *stands[2]) in results
    floor = [
        row["by_depth"]["2"]["exact_accuracy"]
        for row in committed("cost_of_depth_depo/first_order_scout").rows
    ]
    assert (
        "at the floor, {} and {} on 4M tokens".format(*(f"{x:.3f}"[1:] for x in floor)) in results
    )
