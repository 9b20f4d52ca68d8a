"""What README and experiments/results say of what a second pass adds."""

import pytest

from experiments.report import depth_cost, needed, strings
from experiments.report.words import scientific
from tests.test_readme import FOUND, README, RESULTS, committed, flat, section, tables
from tests.test_readme_needs import by_seed, quoted


def lines_of(*names):
    """By source, depth and N."""
    found = strings.lines(map(committed, names))
    return {(line.source.rpartition("/")[2], line.depth, line.passes): line for line in found}


def ratio(name, depth):
    one, two = (group for group in committed(name).summary if group["depth"] == depth)
    assert (one["passes"], two["passes"]) == (1, 2)
    return needed.ratio(one, two)


def words(need):
    assert need["ci95"]
    return "{:.2f} [{:.2f}, {:.2f}]".format(need["mean"], *need["ci95"])


def test_the_answers_of_one_pass_string_by_string():
    seeds, taken = tables(section(RESULTS, "String by string"))
    rows = sorted(
        (row for row in committed("cost_of_depth/w24_t4").rows if row["passes"] == 1),
        key=lambda row: row["seed"],
    )
    lasts = [row["curve"][-1] for row in rows]
    assert seeds[2:] == [
        [
            str(row["seed"]),
            *(f"{share:.2f}" for share in last["label_accuracy_by_position"].values()),
            f"{last['exact_accuracy']:.2f}",
        ]
        for row, last in zip(rows, lasts, strict=True)
    ]
    text = flat(section(RESULTS, "String by string"))
    assert f"(a constant answer: {rows[0]['label_floor']:.2f})".replace("0.", ".") in text
    by_string = [list(last["label_accuracy_by_position"].values()) for last in lasts]
    assert all(shares[3] > 0.95 for shares in by_string)
    assert sum(max(shares[:2]) < 0.56 for shares in by_string) == 3  # "three of them know nothing"
    found = lines_of("cost_of_depth/w24_t4", "rollout_ladder/deep")
    chosen = [found["w24_t4", 4, n] for n in (1, 2)]
    chosen += [found["deep", t, n] for t in (1, 2, 3) for n in (1, 2)]
    columns = [strings.header(chosen).index(name) for name in taken[0]]
    assert taken[2:] == [[line[i] for i in columns] for line in strings.cells(chosen)]
    pairs = list(zip(chosen[::2], chosen[1::2], strict=True))
    assert not any(needed.less(two.strings[3], one.strings[3]) for one, two in pairs)
    sooner = [one.depth for one, two in pairs if needed.less(one.strings[3], two.strings[3])]
    assert sooner == [1]
    for page in (FOUND, text):
        for line in chosen[:2]:
            assert needed.quote(line.strings[3], needed.trillions) in page
    one, two = (f"{line.strings[3]['needed_flops']['mean'] / 1e12:.2f}e12" for line in chosen[:2])
    assert f"with {one} FLOPs and two passes with {two}" in flat(README)
    assert not any(any(group["reached"]) for group in chosen[0].strings[:2])
    assert f"with {chosen[0].whole['budget_flops'] / 1e12:.2f}." in FOUND
    limit = scientific(chosen[0].whole["budget_flops"])
    assert f"the first two one pass does not answer with {limit}." in flat(README)


def test_with_32_hidden_units_the_last_string_is_no_dearer_to_one_pass():
    one, two = lines_of("cost_of_depth/mlp32_unmarked_t4").values()
    assert not needed.less(two.strings[3], one.strings[3])
    narrow = lines_of("rollout_ladder/narrow_twice")
    assert needed.less(
        narrow["narrow_twice", 4, 2].strings[3], narrow["narrow_twice", 4, 1].strings[3]
    )


@pytest.mark.parametrize(
    "title, place, names",
    [
        (
            "One string at a time",
            [0, 1],
            ["rollout_ladder/narrow_one_string", "cost_of_depth/w24_t4_one_string"],
        ),
        ("Deeper with one string", [0], ["rollout_ladder/one_string_deep"]),
        ("Numbered strings", [0], ["rollout_ladder/narrow_numbered"]),
        ("Four blocks that cannot know", [0], ["cost_of_depth/one_written_block"]),
    ],
)
def test_the_tables_of_a_section(title, place, names):
    found = tables(section(RESULTS, title))
    assert [i for i, _ in enumerate(found)] == place
    for shown, name in zip(found, names, strict=True):
        columns = [depth_cost.HEADER.index(column) for column in shown[0]]
        lines = depth_cost.lines(committed(name).summary)
        assert len(columns) == 7 and shown[2:] == [[line[i] for i in columns] for line in lines]


def test_one_string_at_a_time():
    text = flat(section(RESULTS, "One string at a time"))
    one = [ratio("rollout_ladder/narrow_one_string", t) for t in (2, 3, 4)]
    four = [ratio("rollout_ladder/narrow_twice", t) for t in (2, 3, 4)]
    assert all(needed.below(a, b) for a, b in zip(one, four, strict=True))
    for page in (text, FOUND):
        assert "{}, {} and {} times".format(*map(words, one)) in page
        assert "{}, {} and {} times as much, each apart".format(*map(words, four)) in page
    assert "up to {:.1f} times as much".format(max(r["mean"] for r in four)) in flat(README)
    wide = ratio("cost_of_depth/w24_t4_one_string", 4)
    assert words(wide) + " at t = 4" in text
    every = [*one, wide]
    lowest, highest = (end(r["mean"] for r in every) for end in (min, max))
    assert f"one pass takes {lowest:.2f} to {highest:.2f} times what two take" in flat(README)
    for name in ("rollout_ladder/narrow_one_string", "cost_of_depth/w24_t4_one_string"):
        groups = [g for g in committed(name).summary if g["depth"] > 1]
        for pair in zip(groups[::2], groups[1::2], strict=True):
            assert not needed.less(*pair) and not needed.less(*reversed(pair))
        assert all(all(group["reached"]) for group in groups)
    now, before = (
        committed(f"cost_of_depth/{name}").summary for name in ("w24_t4_one_string", "w24_t4")
    )
    fewer = [
        a["needed_flops"]["mean"] / b["needed_flops"]["mean"]
        for a, b in zip(before, now, strict=True)
    ]
    assert f"two passes take {fewer[1]:.1f} times fewer" in text
    assert int(fewer[0] * 10) / 10 == 10.9 and "one pass more than 10.9 times" in text
    assert needed.less(now[0], before[0]) and quoted(now[0]) in FOUND and quoted(now[1]) in FOUND
    assert (
        "with four it was more than {:.2f} times".format(
            before[0]["needed_flops"]["mean"] / before[1]["needed_flops"]["mean"]
        )
        in text
    )


def test_deeper_with_one_string():
    source = committed("rollout_ladder/one_string_deep")
    text = flat(section(RESULTS, "Deeper with one string"))
    flops = {(g["depth"], g["passes"]): g["flops"] for g in source.summary}
    reached = {(g["depth"], g["passes"]): g["reached"] for g in source.summary}
    first, second = (
        {(t, n): f"{taken[i] / 1e12:.2g}" for (t, n), taken in flops.items()} for i in (0, 1)
    )
    assert f"two passes with {first[5, 2]} and {first[6, 2]} where one takes 1.0" in text
    assert first[5, 1] == "1" and reached[6, 1] == [False, True]
    assert f"one pass with {second[5, 1]}0 and {second[6, 1]} where two take {second[5, 2]}" in text
    assert reached[6, 2] == [True, False] and reached[5, 1] == reached[5, 2] == [True, True]
    for passes, seed in ((1, 10), (2, 11)):
        (row,) = (r for r in source.rows if (r["passes"], r["seed"]) == (passes, seed))
        end = row["curve"][-1]
        assert end["rung"] == 6 and f"{end['exact_accuracy']:.3f}"[1:] in text
    assert len(source.rows) == 4
    assert "each of them leads in one of the two seeds that were run" in FOUND
    assert "at t = 5 and 6 each leads in one of two seeds" in flat(README)


def test_numbered_strings():
    text = flat(section(RESULTS, "Numbered strings"))
    source = committed("rollout_ladder/narrow_numbered")
    (third,) = (g for g in source.summary if (g["depth"], g["passes"]) == (3, 1))
    (bare,) = (
        g for g in committed("rollout_ladder/narrow").summary if (g["depth"], g["passes"]) == (3, 1)
    )
    assert not needed.less(third, bare)
    taken = sorted(third["flops"])
    assert f"{taken[0] / 1e12:.2f} to {taken[3] / 1e12:.1f}" in text and taken[3] < min(
        bare["flops"]
    )
    assert f"takes {min(bare['flops']) / 1e12:.1f} (and the mean {quoted(bare)}" in text
    (slow,) = (row for row in source.rows if row["passes"] == 1 and row["seed"] == 13)
    by_string = {
        point["train_flops"]: list(point["label_accuracy_by_position"].values())
        for point in slow["curve"]
        if point["rung"] == 1
    }
    known = min(flops for flops, shares in by_string.items() if min(shares[1:]) > 0.995)
    blind = max(flops for flops, shares in by_string.items() if shares[0] < 0.63)
    assert f"after {known / 1e12:.2f} and answers the first one as a constant would (.62)" in text
    assert f"until {blind / 1e12:.1f}; then" in text
    at = {g["depth"]: g["flops"][3] for g in source.summary if g["passes"] == 1}
    assert f"needs {(at[3] - at[1]) / 1e12:.1f} more" in text
    (two,) = (g for g in source.summary if (g["depth"], g["passes"]) == (3, 2))
    assert f"takes {by_seed(two)} where it took 0.77" in text


def test_four_blocks_that_cannot_know():
    text = flat(section(RESULTS, "Four blocks that cannot know"))
    source = committed("cost_of_depth/one_written_block")
    one, two = source.summary
    usual = {
        g["passes"]: g for g in committed("cost_of_depth/four_blocks").summary if g["depth"] == 3
    }
    assert f"takes {quoted(usual[1])} and {quoted(usual[2])} with one pass and two" in text
    groups = [one, two, usual[1], usual[2]]
    assert not any(needed.less(a, b) for a in groups for b in groups)
    learned = sorted(f for f, there in zip(one["flops"], one["reached"], strict=True) if there)
    assert len(learned) == 4
    said = f"with {learned[0] / 1e12:.1f} to {learned[-1] / 1e12:.1f}, what the paper's kind takes"
    assert said in FOUND
    assert f"four seeds of one pass take {said[5:15]}" in text
    (alone,) = (row for row in source.rows if not row["reached"])
    shares = [
        f"{share:.2f}"[1:] for share in alone["curve"][-1]["label_accuracy_by_position"].values()
    ]
    floor = f"{alone['label_floor']:.2f}"[1:]
    others = f"({' '.join(shares[:3])}; a constant answer: {floor})"
    assert f"the last string ({shares[3]}) and none of the others {others}" in text
    assert one["parameters"] != usual[1]["parameters"]  # attention in place of one Gated DeltaNet
