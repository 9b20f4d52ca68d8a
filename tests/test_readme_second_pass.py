"""What README and experiments/results say of what a second pass adds."""

import pytest

from experiments.report import depth_cost, needed, strings
from experiments.report.words import scientific
from tests.test_readme import (
    COMMITTED,
    FOUND,
    README,
    RESULTS,
    committed,
    flat,
    section,
    tables,
)
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
        ("Deeper with one string", [0], ["rollout_ladder/one_string_deeper"]),
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
    source = committed("rollout_ladder/one_string_deeper")
    text = flat(section(RESULTS, "Deeper with one string"))
    groups = {(g["depth"], g["passes"]): g for g in source.summary}
    assert max(groups) == (7, 2) and len(source.rows) == 8
    for t in range(1, 8):
        one, two = groups[t, 1], groups[t, 2]
        assert not needed.less(one, two) and not needed.less(two, one)
        assert all(one["reached"] + two["reached"]) == (t < 7)
    assert (sum(groups[7, 1]["reached"]), sum(groups[7, 2]["reached"])) == (1, 2)
    fifth, sixth = (words(ratio("rollout_ladder/one_string_deeper", t)) for t in (5, 6))
    assert f"{fifth} times what two take until t = 5 and {sixth} times until t = 6" in text
    for page in (flat(README), FOUND, flat(RESULTS)):
        assert f"at t = 5 and 6 it takes {fifth} and {sixth} times as" in page.replace(
            "t = 5 and 6 of one string it", "t = 5 and 6 it"
        ).replace("At t = 5", "at t = 5")
    tokens = [groups[6, n]["needed_tokens"]["mean"] for n in (1, 2)]
    assert f"they take {tokens[0] / tokens[1]:.1f} times fewer tokens" in text
    third = words(ratio("rollout_ladder/one_string_deeper", 3))
    assert f"rises with t, from {third} at t = 3" in text

    def ends(passes):
        rows = [row for row in source.rows if row["passes"] == passes]
        last = [row["curve"][-1] for row in sorted(rows, key=lambda row: row["seed"])]
        return [f"{x['exact_accuracy']:.3f}"[1:] for x in last if x["rung"] == 7]

    reached = [seed for seed, there in enumerate(groups[7, 1]["reached"]) if there]
    assert len(ends(1)) == 4  # the one that learned t = 7 has not climbed either
    short = [share for seed, share in enumerate(ends(1)) if seed not in reached]
    assert "had {}, {} and {} of it".format(*short) in text
    assert "two of two passes {} and {}.".format(*ends(2)[-2:]) in text
    flops = f"{groups[7, 1]['budget_flops'] / 1e12:.2f}"
    assert f"at t = 7, with {flops}, two seeds of two passes arrive and one" in FOUND


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


TURNED = {(g["depth"], g["passes"]): g for g in committed("cost_of_depth/turned").summary}
PLACES = section((COMMITTED / "second_pass.md").read_text(), "A place for each window")


def test_a_place_for_each_window_has_the_lines_of_its_tables():
    lines = [line for line in PLACES.splitlines() if line.startswith("| t = ")]
    tables = [
        (COMMITTED / "cost_of_depth" / name / "table.md").read_text().splitlines()
        for name in ("turned", "w24_t4_turned")
    ]
    assert len(lines) == 5
    for line in lines:
        whole = [full for table in tables for full in table if full.startswith(line.rstrip("| "))]
        assert len(whole) == 1, line


def test_what_a_place_for_each_window_is_worth():
    plain = {(g["depth"], g["passes"]): g for g in committed("cost_of_depth/deep").summary}
    assert needed.less(TURNED[4, 1], plain[4, 1])
    assert not needed.less(plain[4, 2], TURNED[4, 1])
    assert not needed.less(TURNED[4, 2], TURNED[4, 1])
    assert max(TURNED[4, 1]["flops"]) < 3.65e12 and min(plain[4, 1]["flops"]) > 5.25e12
    times = needed.bracketed(needed.ratio(TURNED[4, 1], plain[4, 2]), lambda x: f"{x:.2f}")
    assert f"{times} times as much, not apart" in flat(PLACES)
    assert not needed.less(TURNED[3, 1], plain[3, 1])  # "not shown"
    (lost,) = (row for row in committed("cost_of_depth/turned").rows if not row["reached"])
    hits = lost["label_accuracy_by_position"].values()
    said = f"(.{min(hits) * 100:.0f} to .{max(hits) * 100:.0f})"
    assert f"stands at .{lost['exact_accuracy'] * 100:.0f} when" in flat(PLACES) and said in PLACES
    for page in (README, (COMMITTED / "README.md").read_text()):
        for group in (TURNED[4, 1], plain[4, 2]):
            assert needed.bracketed(group["needed_flops"], needed.trillions) in flat(page)


def test_places_on_the_papers_strings():
    rows = committed("cost_of_depth/w24_t4_turned").rows
    without = [row for row in committed("cost_of_depth/w24_t4").rows if row["passes"] == 1]
    assert sum(row["reached"] for row in rows) == 3 and not any(r["reached"] for r in without)
    assert [row["seed"] for row in rows] == [row["seed"] for row in without]
    for row in rows:
        first, second, _, last = row["label_accuracy_by_position"].values()
        if not row["reached"]:
            assert (f"{first:.2f}", f"{second:.2f}") == ("0.51", "0.54") and last > 0.99


def test_places_with_ten_thousand_parameters():
    page = section(
        (COMMITTED / "second_pass.md").read_text(), "Places with ten thousand parameters"
    )
    text = flat(page)
    places = committed("rollout_ladder/narrow_turned")
    ours = {group["depth"]: group for group in places.summary}
    plain = {(g["depth"], g["passes"]): g for g in committed("rollout_ladder/narrow").summary}
    shown = tables(page)[0]
    columns = [depth_cost.HEADER.index(column) for column in shown[0]]
    assert shown[2:] == [[line[i] for i in columns] for line in depth_cost.lines(places.summary)]
    assert f"commit {places.results['commit']} " in text

    def times(one, other):
        return needed.bracketed(needed.ratio(one, other), lambda value: f"{value:.2f}")

    helped = [t for t in ours if needed.less(ours[t], plain[t, 1])]
    assert helped == [2, 3, 4]  # "apart at t = 2, 3 and 4"
    without = [times(plain[t, 1], ours[t]) for t in (2, 3)]
    assert "at t = 2 and 3 {} and {} times less".format(*without) in text
    assert [t for t in ours if needed.less(plain[t, 2], ours[t])] == [4, 5]
    two = [times(ours[t], plain[t, 2]) for t in (1, 2, 3, 4)]
    assert "takes {}, {} and {} times as much at t = 1, 2 and 3".format(*two[:3]) in text
    assert f"takes {two[3]} times what two passes take without at t = 4, apart" in text
    assert f"and {quoted(ours[5])} at t = 5, where two take {quoted(plain[5, 2])}, apart" in text
    assert sum(ours[5]["reached"]) == 4 and sum(ours[6]["reached"]) == 1
    strings = [
        f"{x['needed_flops']['mean'] / 1e12:.2f}"
        for x in lines_of("rollout_ladder/narrow_turned")["narrow_turned", 4, 1].strings
    ]
    assert f"(t = 4: {', '.join(strings)})" in text
    assert f"with places takes {quoted(ours[3])} until t = 3, {without[1]} times less" in FOUND
    assert (
        f"and {two[2]} times what two passes take without; until t = 4 it takes {two[3]}" in FOUND
    )
    assert f"up to t = 3 ({two[2]} times what two passes take" in flat(README)
    assert f"in part at t = 4 ({two[3]})" in flat(README)
    conclusion = (COMMITTED / "rollout_ladder/narrow_turned/table.md").read_text()
    assert "learned t = 5 6 5 5 4." in conclusion and "gets to t = 5 6 5 5 4, where" in text


def test_two_passes_with_places():
    page = section(
        (COMMITTED / "second_pass.md").read_text(), "Places with ten thousand parameters"
    )
    text = flat(page)
    source = committed("rollout_ladder/narrow_turned_twice")
    ours = {group["depth"]: group for group in source.summary}
    plain = {(g["depth"], g["passes"]): g for g in committed("rollout_ladder/narrow").summary}
    one = {g["depth"]: g for g in committed("rollout_ladder/narrow_turned").summary}
    shown = tables(page)[1]
    columns = [depth_cost.HEADER.index(column) for column in shown[0]]
    assert shown[2:] == [[line[i] for i in columns] for line in depth_cost.lines(source.summary)]
    assert f"commit {source.results['commit']} " in text
    assert not any(needed.less(ours[t], plain[t, 2]) for t in ours)  # "at no t"
    assert not any(needed.less(ours[t], one[t]) for t in ours)  # "not shown"

    def times(pairs):
        found = [needed.bracketed(needed.ratio(*pair), lambda x: f"{x:.2f}") for pair in pairs]
        return f"{found[0]}, {found[1]}, {found[2]} and {found[3]}"

    assert f"at t = 1 to 4 they take {times((ours[t], plain[t, 2]) for t in (1, 2, 3, 4))}" in text
    assert f"one pass takes {times((one[t], ours[t]) for t in (1, 2, 3, 4))} times what" in text
    assert sum(ours[5]["reached"]) == sum(ours[6]["reached"]) == 4
