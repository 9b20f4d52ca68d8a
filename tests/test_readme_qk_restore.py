"""What experiments/results says of QK-Restore."""

import re

from experiments.report.restored import BEFORE, NOTHING, PAPER
from tests.test_readme import COMMITTED, README, committed, flat

TABLE = (COMMITTED / "qk_restore/cpu/table.md").read_text().splitlines()
PAGE = (COMMITTED / "qk_restore.md").read_text()
TEXT = flat(PAGE)
FOUND = {(g["skill"], g["put_back"]): g for g in committed("qk_restore/cpu").summary}
FIRST = FOUND["recall+chain+far_chain", BEFORE]


def short(value):
    return f"{value:.3f}".removeprefix("0")


def change(skill, put_back):
    found = FOUND[skill, put_back]["regained"]
    low, high = found["mean"] - found["half"], found["mean"] + found["half"]
    return f"{short(found['mean'])} [{short(low).replace('-0', '-')}, {short(high)}]"


def score(at):
    return f"{short(at['mean'])} [{', '.join(map(short, at['ci95']))}]"


def test_lines_are_those_of_the_table():
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(lines) == 18 and set(lines) <= set(TABLE)


def test_what_fine_tuning_costs():
    local, far = (FOUND[skill, NOTHING] for skill in ("chain", "far_chain"))
    said = f"from 1.000 to {score(local['recall'])}, a far chain to {score(far['recall'])}"
    assert short(FIRST["recall"]["mean"]) == "1.000" and said in TEXT
    assert all(abs(g["nearest"]["mean"] - g["farthest"]["mean"]) < 0.01 for g in (local, far))
    assert (
        len(local["seeds"]) == len(far["seeds"]) == 5 and f"Floor: {short(local['floor'])}" in TEXT
    )


def test_what_queries_and_keys_bring_back():
    gained = FOUND["chain", PAPER]["regained"]["mean"]
    lost = FIRST["recall"]["mean"] - FOUND["chain", NOTHING]["recall"]["mean"]
    assert f"by {change('chain', PAPER)} after chains, apart from nothing: " in TEXT
    assert f"{gained / lost:.0%} of the {short(lost)} that were lost".replace("%", " %") in TEXT
    assert f"After far chains it is {change('far_chain', PAPER)}" in TEXT
    assert round(lost / gained) == 14  # "at a fourteenth of the size"
    assert f"recall is {score(FOUND['chain', 'all but query, key']['recall'])}" in TEXT
    pro = [FOUND["chain", f"key, query by QK-Pro, c = {c}"]["regained"] for c in ("0.1", "1", "10")]
    assert "{}, {} and {} for c".format(*(short(found["mean"]) for found in pro)) in TEXT
    alone = f"keys alone {change('chain', 'key')}, queries alone {change('chain', 'query')}"
    assert alone in TEXT


def test_where_the_rest_is():
    said = f"bring {change('chain', 'MLPs')} after chains and {change('far_chain', 'MLPs')} after"
    assert said in TEXT
    kept = [short(FOUND[s, "MLPs"]["own"]["mean"]) for s in ("chain", "far_chain")]
    whole = [short(FOUND[s, NOTHING]["own"]["mean"]) for s in ("chain", "far_chain")]
    assert f"({kept[0]} and {kept[1]} of {whole[0]} and {whole[1]})" in TEXT
    fast = FOUND["chain", "fast weights"]
    kept = f"at {short(fast['own']['mean'])} of the chain"
    assert f"bring {change('chain', 'fast weights')} after chains, {kept}" in TEXT
    far = FOUND["far_chain", "fast weights"]["regained"]
    assert abs(far["mean"]) < far["half"]  # "nothing that is shown"


def test_the_front_page_says_the_same():
    (row,) = re.findall(r"^\| `qk_restore` .*$", README, flags=re.MULTILINE)
    gained = FOUND["chain", PAPER]["regained"]["mean"]
    lost = FIRST["recall"]["mean"] - FOUND["chain", NOTHING]["recall"]["mean"]
    assert f"{gained / lost:.0%}".replace("%", " %") in row


def test_the_overview_of_findings_says_the_same():
    found = flat((COMMITTED / "README.md").read_text())
    local = FOUND["chain", NOTHING]["recall"]
    assert f"recall falls from 1.000 to {score(local)}, queries and keys of attention" in found
    said = f"bring back {change('chain', PAPER)}, MLPs {change('chain', 'MLPs')}"
    assert said in found
