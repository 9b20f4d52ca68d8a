"""What experiments/results says of latents."""

import re

from experiments.report import needed
from experiments.report.claims_latents import less_than_fast_weights
from experiments.report.depth_cost import name
from experiments.report.verdicts import Verdict
from tests.test_readme import COMMITTED, README, committed, flat

SOURCE = committed("lclm/cpu")
TABLE = (COMMITTED / "lclm/cpu/table.md").read_text().splitlines()
PAGE = (COMMITTED / "lclm.md").read_text()
TEXT = flat(PAGE)
FOUND = {name(group): group for group in SOURCE.summary}
ONE, TWO, LATENTS = (FOUND[key] for key in ("N = 1", "N = 2", "12 tokens a latent"))


def millions(group):
    return f"{group['needed_tokens']['mean'] / 1e6:.2f}M"


def test_lines_are_those_of_the_table():
    lines = [line for line in PAGE.splitlines() if line.startswith("| t = ")]
    assert len(lines) == 3
    for line in lines:
        assert any(full.startswith(line.rstrip("| ")) for full in TABLE), line


def test_what_is_apart():
    times = needed.bracketed(needed.ratio(LATENTS, TWO), lambda value: f"{value:.2f}")
    assert f"and {times} times what two passes take" in TEXT
    assert f"{times.replace('0.', '.')} times those of two" in TEXT
    assert needed.less(LATENTS, ONE) and not needed.less(LATENTS, TWO)
    assert max(LATENTS["flops"]) < min(TWO["flops"])  # "all seeds lie apart"
    assert LATENTS["needed_flops"]["mean"] < ONE["needed_flops"]["mean"] / 4  # "a quarter"
    assert less_than_fast_weights(SOURCE).verdict is Verdict.NOT_SHOWN
    assert f"after {millions(TWO)}, latents after {millions(LATENTS)}" in TEXT


def test_which_strings_one_pass_knows():
    rows = [row for row in SOURCE.rows if row["passes"] == 1 and not row["reached"]]
    hits = [row["label_accuracy_by_position"] for row in rows]
    last, first = (", ".join(f"{at[key]:.2f}" for at in hits) for key in "41")
    assert f"({last}) and not the first ({first.replace('0.', '.')})" in TEXT


def test_the_bytes():
    """Float32: keys and values of 2 heads of 32 a latent; 2 matrices of 32 x 32."""
    assert 4 * (2 * 2 * 32 * 4) == 2 * 2**10 and 2 * 32 * 32 * 4 == 8 * 2**10
    assert 16 * 512 == 8 * 2**10  # "from seventeen on"


def test_the_front_page_says_the_same():
    (row,) = re.findall(r"^\| `lclm` .*$", README, flags=re.MULTILINE)
    times = needed.bracketed(needed.ratio(LATENTS, TWO), lambda value: f"{value:.2f}")
    assert times.replace("0.", ".") in row


def test_the_preset_as_it_comes():
    rows = [row for row in committed("lclm/as_it_comes").rows if row["seed"] == 10]
    took = {(row["model"], row["passes"]): row["train_flops"] for row in rows if row["reached"]}
    full, latents, two, one = (
        took[key] / 1e12
        for key in (("transformer_full_cache", 1), ("lclm", 1), ("hybrid", 2), ("hybrid", 1))
    )
    said = f"has it at {full:.2f}e12, seed 10, where latents take {latents:.2f}, two passes"
    assert f"{said} {two:.1f} and one {one:.1f}." in TEXT
