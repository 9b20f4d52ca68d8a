"""The numbers of README and of experiments/results/*.md are those of the results, to the digit."""

import re
from pathlib import Path

from experiments.report import rule110, sources
from experiments.report.words import quote
from sleep_jax.model.config import UPDATE_RULES

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "experiments" / "results"
README = (ROOT / "README.md").read_text()
PAGES = (
    "README.md",
    "rule110.md",
    "cost_of_depth.md",
    "rollout_ladder.md",
    "second_pass.md",
    "depo.md",
    "lclm.md",
    "dash_attention.md",
    "consa.md",
    "qk_restore.md",
    "recovery.md",
    "knowledge_seeding.md",
)
NOTES = (
    "NOTES.md",
    "NOTES_cost_of_depth.md",
    "NOTES_depo.md",
    "NOTES_ladder.md",
    "NOTES_lclm.md",
    "NOTES_dash_attention.md",
    "NOTES_consa.md",
    "NOTES_qk_restore.md",
    "NOTES_recovery.md",
    "NOTES_knowledge_seeding.md",
    "NOTES_second_pass.md",
    "bench/NOTES.md",
)
RESULTS = "\n".join((COMMITTED / page).read_text() for page in PAGES)


def flat(text: str) -> str:
    """On one line, so that a sentence is found wherever its lines break."""
    return re.sub(r"\s+", " ", text)


def tables(text: str) -> list[list[list[str]]]:
    """Its pipe tables, line by line and cell by cell."""
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ]


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next."""
    (found,) = re.findall(
        rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL
    )
    return found


FOUND = flat(section(RESULTS, "What was found"))


def committed(name: str) -> sources.Source:
    return sources.load(COMMITTED / name / "results.json", sources.COMMITTED, name)


def named(source: sources.Source) -> list[dict[str, str]]:
    """The lines of the table by column, with the accuracies by seed as the README writes them."""
    found = []
    for line in rule110.lines(source.summary):
        cells: dict[str, str] = dict(zip(rule110.HEADER, line, strict=True))
        (group,) = (group for group in source.summary if rule110.lines([group]) == [line])
        cells["seeds"] = " ".join(f"{value:.2f}".removeprefix("0") for value in group["values"])
        found.append(cells)
    return found


def test_cellular_automata():
    (cpu,) = tables(section(README, "Measured"))
    source = committed("cellular_automata/cpu")
    columns = [i for i, name in enumerate(rule110.HEADER) if name != "parameters"]
    assert cpu[0] == [rule110.HEADER[i] for i in columns]
    assert cpu[2:] == [[line[i] for i in columns] for line in rule110.lines(source.summary)]
    hybrids = [line for line in named(source) if line["model"] == "hybrid, gated delta"]
    for t in ("1", "2"):
        said = "; ".join(
            f"N = {line['N']}{' at equal compute' * ('compute' in line['trained on'])} "
            f"{line['seeds']}"
            for line in hybrids
            if line["t"] == t
        )
        assert f"By seed, t = {t}: {said}." in flat(section(RESULTS, "The main job by seed"))


def test_which_n_makes_most_of_a_budget():
    text = section(RESULTS, "Rule 110: which N makes most of a budget?")
    shown, deeper = tables(text)
    names = ("N", "parameters", "training tokens", "exact accuracy [95%]", "seeds")
    lines = named(committed("cellular_automata/two_passes"))
    rebuilt = [[line[name] for name in names] for line in lines[1:]]
    assert [[line[0], *line[2:]] for line in shown[2:]] == rebuilt
    spent = {
        line["N"]: line["exact accuracy [95%]"]
        for line in named(committed("cellular_automata/cpu"))
        if line["t"] == "2" and line["training FLOPs"] == "1.48e12"
    }
    for passes, score in spent.items():
        mean, interval = score.split(" ", 1)
        said = f"N = {passes} {mean[1:]} {interval.replace('[0.', '[.').replace(' 0.', ' .')}"
        assert said in flat(text)
    assert len(spent) == 3
    t3 = {
        (line["N"], line["training FLOPs"]): line
        for line in named(committed("cellular_automata/t3"))
    }
    flops = t3["4", "5.91e12"]["training FLOPs"]
    for passes, same_tokens, same_flops, by_seed in deeper[2:]:
        lines = [line for (n, _), line in t3.items() if n == passes]
        (few,) = (line for line in lines if line["training tokens"] == "3.00M")
        (many,) = (line for line in lines if line["training FLOPs"] == flops)
        assert (same_tokens, same_flops) == tuple(
            line["exact accuracy [95%]"] for line in (few, many)
        )
        assert by_seed == many["seeds"]
    four = [
        line["exact accuracy [95%]"]
        for line in named(committed("cellular_automata/two_passes_four_blocks"))
    ]
    quoted = [score.replace("[0.", "[.").replace(" 0.", " .")[1:] for score in four]
    for passes, score in (("2", quoted[1]), ("1", quoted[2])):
        assert f"N = {passes} {score}" in flat(text)


def test_what_else_the_same_flops_buy():
    (matched,) = tables(section(RESULTS, "Rule 110: what else could the same FLOPs buy?"))
    names = ("N", "parameters", "training tokens", "exact accuracy [95%]", "seeds")
    lines = named(committed("cellular_automata/cpu_matched"))
    shown = [line for line in lines if line["N"] != "1" or "compute" in line["trained on"]]
    rebuilt = [[line[name] for name in names] for line in shown]
    assert [[line[0], *line[2:]] for line in matched[2:]] == rebuilt


def test_rollout_curriculum():
    found = {
        (line["N"], line["training tokens"], line["trained on"].partition("; ")[2]): line
        for line in named(committed("rollout_curriculum/cpu"))
    }
    text = section(RESULTS, "Where does N = 1 stop?")
    ((header, _, *lines),) = tables(text)
    assert len(lines) == 2
    for line, regime in zip(lines, ("", "t = 1, 2 first"), strict=True):
        for name, shown in zip(header[1:], line[1:], strict=True):
            ((passes, tokens),) = re.findall(r"N = (\d), (\S+) tokens", name)
            assert shown == found[passes, tokens, regime]["exact accuracy [95%]"]
    both = found["4", "3.00M", "t = 1, 2 first; N = 1, 2 first"]
    assert both["exact accuracy [95%]"] in flat(text)


def test_four_hops():
    (shown,) = tables(section(RESULTS, "Four hops"))
    found = {(g["passes"], g["match"]): g for g in committed("depo/four_hops").summary}
    order = [(1, "tokens"), (4, "tokens"), (1, "flops"), (1, "flops_blocks")]
    for line, key in zip(shown[2:], order, strict=True):
        for depth, cell in zip("24", line[4:6], strict=True):
            assert cell == quote(found[key]["by_depth"][depth]["exact_accuracy"])


def test_local_rules_on_depo():
    (shown,) = tables(section(RESULTS, "Local rules on Depo"))
    groups = committed("local_rules_depo/cpu").summary
    found = {(g["update_rule"], g["passes"], g["match"]): g["by_depth"]["2"] for g in groups}
    assert len(shown) == 2 + len(UPDATE_RULES)
    for rule, line in zip(UPDATE_RULES, shown[2:], strict=True):
        cells = [found[rule, *key] for key in ((1, "tokens"), (4, "tokens"), (1, "flops"))]
        assert line[1:] == [quote(cell["exact_accuracy"]) for cell in cells]
    assert all(found[r, 1, "flops"]["exact_accuracy"]["mean"]
               > found[r, 4, "tokens"]["exact_accuracy"]["mean"] for r in UPDATE_RULES)  # fmt: skip


def test_sliding_window():
    scores, by_string = tables(section(RESULTS, "Sliding-window eviction"))
    ways = (("1", "equal tokens"), ("4", "equal tokens"), ("1", "equal compute"))
    for first, *shown in scores[2:]:
        lines = [
            line
            for line in named(linked(first))
            if (line["model"], line["t"]) == ("hybrid, gated delta", "2")
        ]
        found = [
            line["exact accuracy [95%]"]
            for n, how in ways
            for line in lines
            if line["N"] == n and line["trained on"].startswith(how)
        ]
        assert shown == found
    names = ("cpu", "sliding", "sliding_two_stages", "marked", "sliding_marked")
    sweeps = [f"cellular_automata/{name}/table.md" for name in names]
    assert all(name in line[0] for name, line in zip(sweeps, scores[2:], strict=True))
    text = flat(section(RESULTS, "Sliding-window eviction"))
    (two_stages,) = (x for x in named(linked(scores[4][0])) if x["N"] == "4")
    assert f"N = 4 by seed {two_stages['seeds']}." in text
    evict, slide, _, marked, both = (
        {
            (group["passes"], group["match"]): group["exact_accuracy"]
            for group in linked(line[0]).summary
            if (group["model"], group["rollout_steps"]) == ("hybrid", 2)
        }
        for line in scores[2:]
    )
    one, four, matched = (1, "tokens"), (4, "tokens"), (1, "flops")
    assert slide[four]["ci95"][1] < both[four]["ci95"][0] < marked[four]["ci95"][1]
    assert marked[one]["ci95"][1] < both[one]["ci95"][0]
    said = "N = 1 has {} on the same tokens where hard eviction has {}, apart, and {} with the"
    assert said.format(*(short(x) for x in (both[one], marked[one], both[matched]))) in text
    said = "N = 4 has {} where hard eviction has {}. With a token before every string it has {},"
    assert said.format(*(short(x[four]) for x in (slide, evict, both))) in FOUND
    assert f"with the FLOPs of N = 4, {short(both[matched])} (" in FOUND
    assert len(by_string) == 4
    for first, seeds, *shown in by_string[2:]:
        (group,) = (group for group in linked(first).summary if group["passes"] == 4)
        assert seeds == " ".join(f"{value:.2f}".removeprefix("0") for value in group["values"])
        assert shown == [f"{score['mean']:.2f}" for score in group["by_position"]]


def short(score) -> str:
    return f"{score['mean']:.3f}".removeprefix("0")


def linked(cell: str) -> sources.Source:
    """The committed source whose table a cell links to."""
    (name,) = re.findall(r"\(([^()\s]+)/table.md\)", cell)
    return committed(name)


def test_larger_cycles_smaller_models():
    (shown,) = tables(section(RESULTS, "Larger cycles, smaller models"))
    assert len(shown) == 9
    for first, *numbers in shown[2:]:
        source = linked(first)
        found = {(g["passes"], g["match"]): g["by_depth"]["2"] for g in source.summary}
        cells = [found[key] for key in ((1, "tokens"), (4, "tokens"), (1, "flops"))]
        means = [f"{cell['exact_accuracy']['mean']:.3f}" for cell in cells]
        assert numbers == [f"{cells[0]['floor']:.3f}", *means]


def test_narrow():
    by_seed, deeper = tables(section(RESULTS, "Narrower, deeper"))
    columns = ["seeds" if name == "by seed" else name for name in by_seed[0]]
    lines = named(committed("cellular_automata/narrow"))
    hybrids = [line for line in lines if line["model"] == "hybrid, gated delta"]
    assert by_seed[2:] == [[line[name] for name in columns] for line in hybrids]
    assert len(deeper[2:]) == 5
    for first, *shown in deeper[2:]:
        groups = sorted(
            linked(first).summary,
            key=lambda group: (group["match"] == "flops", group["passes"]),
        )
        assert first.startswith(f"t = {groups[0]['rollout_steps']}, W = {groups[0]['width']}, ")
        means = [f"{group['exact_accuracy']['mean']:.3f}" for group in groups]
        assert shown == [f"{groups[0]['floor']:.3f}", *means]


def test_links_lead_somewhere():
    kernels = (ROOT / "pallas_kernels" / name for name in ("README.md", "NOTES.md"))
    ours = (ROOT / name for name in ("README.md", "BUILD_NOTES.md", "experiments/README.md"))
    models = (ROOT / "sleep_jax" / name for name in ("README.md", "NOTES.md", "NOTES_meshes.md"))
    pages = (*ours, *models, *kernels)
    for page in (*pages, *(COMMITTED / name for name in (*PAGES, *NOTES))):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]
                assert anchor in anchors, f"{page}: {link}"
