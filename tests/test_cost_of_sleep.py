"""`EXP=cost_of_sleep`: the whole of it at its smallest, and what its report concludes."""

import json

import pytest

from experiments.report import build, cost
from tests.from_outside import Started, ends


def arguments(*flags):
    return ["experiments", "cost_of_sleep", "--preset=smoke", *flags]


def test_smoke(tmp_path):
    environment = {"XLA_FLAGS": ""}
    done = Started(*arguments(f"--workdir={tmp_path}"), environment=environment).finish(600)
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "cost_of_sleep" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    contexts = results["awake_by_context"]
    assert [(row["model"], row["context"]) for row in contexts] == [
        (model, context) for context in (16, 64) for model in ("evict", "slide", "transformer")
    ]
    bytes_of = {(row["model"], row["context"]): row["state_bytes"] for row in contexts}
    for model in ("evict", "slide"):
        assert bytes_of[model, 16] == bytes_of[model, 64]
    # Two blocks of one key and one value head of 8, in float32; two int32 scalars each.
    assert bytes_of["transformer", 64] == 2 * (64 * 2 * 8 * 4 + 2 * 4)
    assert {row["passes"] for row in results["awake_by_passes"]} == {1, 2}
    for rows in (contexts, *(results[key] for key in ("awake_by_passes", "sleep", "training"))):
        for row in rows:
            assert 0 < row["lower_quartile"] <= row["seconds"] <= row["upper_quartile"]
    assert results["commit"] and results["device"]["platform"] == "cpu"
    for name in ("table.md", "table.tex"):
        assert "Hybrid, sliding window: medians" in (directory / name).read_text()
    assert (directory / "cost_of_sleep.png").read_bytes().startswith(b"\x89PNG")
    (directory / "table.md").unlink()  # `make tables` makes it again from the results
    assert directory / "table.md" in build.rebuild(directory)
    assert "Hybrid, sliding window: medians" in (directory / "table.md").read_text()


def test_a_dry_run_says_what_would_be_measured_and_writes_nothing(tmp_path):
    done = ends(*arguments(f"--workdir={tmp_path}", "--set=lengths=32", "--dry_run"))
    assert done.returncode == 0
    assert "a token awake after 32 tokens" in done.stdout and "at N = 1, 2" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--preset=cheap", "--preset=cheap is unknown; allowed: cpu, smoke"),
        ("--set=lengths=16,40", "lengths=(16, 40) is not possible; allowed: multiples of window"),
        ("--set=passes=0", "passes=(0,) is not possible"),
        ("--set=window=8", "window=8 is not possible; allowed: >= rounds + 8"),
    ],
)
def test_bad_input(argument, message, tmp_path):
    done = ends(*arguments(f"--workdir={tmp_path}", argument))
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "theirs, expected",
    [
        ((1, 2, 4, 8), (2, 3)),
        ((1, 4, 2, 8), (3, 4)),  # from where on it stays slower
        ((4, 5, 6, 8), (None, 1)),
        ((1, 1, 2, 3), (4, None)),
    ],
)
def test_when_the_growing_cache_is_overtaken(theirs, expected):
    rows = [
        {"model": model, "context": context, "seconds": seconds}
        for model, times in (("evict", (3, 3, 3, 3)), ("transformer", theirs))
        for context, seconds in enumerate(times, start=1)
    ]
    assert cost.overtaken({"awake_by_context": rows}, "evict") == expected
