"""The report of EXP=qk_restore on made-up rows, and its sweep from outside."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest
from absl.testing import flagsaver

from experiments import qk_restore
from experiments.report import claims_restored, restored
from experiments.report.sources import Source
from experiments.report.verdicts import Verdict
from sleep_jax.model import decoder
from tests import tiny
from tests.from_outside import ends, run
from tests.test_qk_restore import changed

ARMS = ("nothing", "query, key", "value")


def by_depth(accuracy):
    at = {"1": accuracy + 0.05, "2": accuracy, "3": accuracy, "4": accuracy - 0.05}
    return {d: {"exact_accuracy": share, "answers": 100} for d, share in at.items()}


def row(skill, seed, accuracy, readings=None):
    own = {"put_back": "", "skill": "recall", "exact_accuracy": accuracy}
    own["by_depth"] = by_depth(accuracy)
    return {
        "cell": f"{skill}-s{seed}",
        "skills": skill,
        "pairs": 8,
        "passes": 1,
        "seed": seed,
        "regime": "plain" if readings is None else "from recall",
        "floor": 0.1,
        "train_tokens": 1000,
        "train_flops": 10**9,
        "parameters": 5,
        "readings": readings or [own],
    }


def read(seed, recall, own):
    """Recall by what is put back, and the fine-tuned skill, which loses a tenth of it by values."""
    found = []
    for skill, values in (("recall", recall), ("chain", own)):
        found += [
            {
                "put_back": arm,
                "skill": skill,
                "exact_accuracy": share + seed / 100,
                "by_depth": by_depth(share + seed / 100),
            }
            for arm, share in zip(ARMS, values, strict=True)
        ]
    return found


ROWS = [
    *(row("recall+chain", seed, 0.9 + seed / 100) for seed in range(3)),
    *(row("chain", seed, 0.8, read(seed, (0.3, 0.7, 0.31), (0.8, 0.78, 0.7))) for seed in range(3)),
]


def test_groups_are_what_was_read():
    summary = restored.summarise(ROWS)
    assert [(group["skill"], group["put_back"]) for group in summary] == [
        ("recall+chain", ""), *(("chain", arm) for arm in ARMS),
    ]  # fmt: skip
    before, nothing, paper, value = summary
    assert before["recall"]["mean"] == pytest.approx(0.91) and before["own"] is None
    assert nothing["recall"]["mean"] == pytest.approx(0.31) and nothing["regained"] is None
    assert nothing["nearest"]["mean"] == pytest.approx(0.36)
    assert nothing["farthest"]["mean"] == pytest.approx(0.26)
    assert paper["regained"] and paper["regained"]["half"] is not None and value["own"]
    assert paper["regained"]["mean"] == pytest.approx(0.4)
    assert paper["regained"]["half"] == pytest.approx(0, abs=1e-9)  # the seeds gain alike
    assert value["own"]["mean"] == pytest.approx(0.71)


def test_lines_and_words():
    summary = restored.summarise(ROWS)
    cells = dict(zip(restored.HEADER, restored.lines(summary)[2], strict=True))
    assert cells["fine-tuned on"] == "chain" and cells["put back"] == "query, key"
    assert cells["recall put back [95%]"] == "+0.400 [+0.400, +0.400]"
    text = restored.conclude(summary)
    assert "After fine-tuning on chain recall is 0.310" in text and "from 0.910" in text
    assert "0.710 [0.685, 0.735], more, apart from nothing (+0.400" in text
    assert "fine-tuned skill 0.790 [0.765, 0.815] where it was 0.810" in text


@pytest.mark.parametrize(
    "gains, words",
    [
        ((0.1, 0.1, 0.11), "more, apart from nothing"),
        ((-0.1, -0.1, -0.11), "less, apart from nothing"),
        ((0.3, -0.1, 0.0), "no change that is shown"),
        ((0.3,), "of one seed"),
    ],
)
def test_a_change_is_shown_where_its_interval_leaves_nothing_out(gains, words):
    assert restored._shown(restored._change(gains, [0.0] * len(gains))) == words


def test_smoke_trains_fine_tunes_and_reads(tmp_path):
    flags = ("--preset=smoke", "--jobs=1", "--seeds=0", "--fine_tuned=chain")
    result = run("experiments", "qk_restore", *flags, f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "qk_restore" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == 2
    (tuned,) = (found for found in results["rows"] if found["skills"] == "chain")
    assert tuned["warm_start"]["run"] == "hybrid-N1-recall-chain-far-chain-P4-s0"
    own = {r["put_back"]: r for r in tuned["readings"] if r["skill"] == "chain"}
    assert own["nothing"]["exact_accuracy"] == tuned["exact_accuracy"]
    assert own["nothing"]["loss"] == pytest.approx(tuned["loss"], rel=1e-6)
    assert len({reading["loss"] for reading in own.values()}) > 5
    assert (directory / "restored.png").read_bytes().startswith(b"\x89PNG")
    assert "begin with the parameters of another" in (directory / "table.md").read_text()
    again = run("experiments", "qk_restore", *flags, f"--workdir={tmp_path}")
    assert again.returncode == 0 and "reading" not in again.stdout
    (row,) = directory.glob("cells/*recall*/row.json")
    row.unlink()  # so that there would be something to train, were the second stage not looked at
    other = ends(
        "experiments", "qk_restore", *flags, "--fine_tuning_rate=1", f"--workdir={tmp_path}"
    )
    assert (
        other.returncode == 2 and "holds a run with optimizer.adamw_learning_rate" in other.stderr
    )
    assert not row.exists()


@pytest.mark.parametrize(
    "flag, allowed",
    [
        ("--fine_tuned=recall", "allowed: chain, far_chain"),
        ("--fine_tuning_share=0", "allowed: more than 0"),
        ("--fine_tuning_rate=-1", "allowed: a non-negative number"),
        ("--pairs=6", "a multiple of 4"),
    ],
)
def test_impossible_flags_end_in_one_line(tmp_path, flag, allowed):
    result = ends("experiments", "qk_restore", "--preset=smoke", flag, f"--workdir={tmp_path}")
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    (line,) = result.stderr.strip().splitlines()
    assert flag.split("=")[0].split("_")[-1].strip("-") in line and allowed in line


def source(rows):
    results = {"rows": rows, "device": "a CPU"}
    summary = restored.summarise(rows)
    return Source("made up", "made up", "qk_restore", Path(), results, summary)


@pytest.mark.parametrize(
    "recall, verdict, says",
    [
        ((0.3, 0.7, 0.31), Verdict.SHOWN, "queries and keys put back: +0.400 [+0.400, +0.400]"),
        ((0.3, 0.5, 0.31), Verdict.NOT_SHOWN, "+0.200"),  # less than half of .6
        ((0.9, 0.9, 0.9), Verdict.NOT_SHOWN, "fine-tuning is not shown to cost any"),
    ],
)
def test_the_claim_of_the_paper_wants_half_of_what_was_lost(recall, verdict, says):
    rows = [
        *ROWS[:3],
        *(row("chain", seed, 0.8, read(seed, recall, (1.0, 1.0, 1.0))) for seed in range(3)),
    ]
    found = claims_restored.queries_and_keys_recover(source(rows))
    assert found.verdict is verdict and says in found.numbers
    assert found.scale == "8 pairs, 5 parameters, 3 seeds"


@pytest.mark.parametrize(
    "far, verdict", [(0.7, Verdict.SHOWN), (0.3, Verdict.NOT_SHOWN), (0.1, Verdict.NOT_SHOWN)]
)
def test_local_chains_cost_more_where_far_ones_cost_less(far, verdict):
    def tuned(skill, share):
        for seed in range(3):
            found = read(seed, (share, share, share), (1.0, 1.0, 1.0))
            own = [{**r, "skill": skill} if r["skill"] == "chain" else r for r in found]
            yield row(skill, seed, 0.8, own)

    rows = [*ROWS[:3], *tuned("chain", 0.3), *tuned("far_chain", far)]
    assert claims_restored.chains_cost_more(source(rows)).verdict is verdict
    missing = claims_restored.chains_cost_more(source([*ROWS[:3], *tuned("chain", 0.3)]))
    assert missing.verdict is Verdict.NOT_RUN
    one_seed = claims_restored.queries_and_keys_recover(source([ROWS[0], ROWS[3]]))
    assert one_seed.verdict is Verdict.NOT_RUN


def test_every_choice_is_what_its_name_says():
    model = dataclasses.replace(tiny.MODEL, pattern=("gated_delta_net", "attention"))
    before, after = (decoder.init(model, jax.random.key(seed)) for seed in (0, 1))

    def put_back(params):
        return changed(params, after)

    found = {
        name: put_back(params) for name, params in qk_restore.arms(model, before, after).items()
    }
    softmax, delta = "block_01_attention/mixer", "block_00_gated_delta_net/mixer"
    parts = {"query": "in", "key": "in", "value": "in", "output": "out"}
    for name, where in parts.items():
        assert found[name] == {f"{softmax}/{where}/{name}"}
    routing = found["query"] | found["key"]
    for name in found:
        if name.startswith(("query, key", "key, query")) and "fast" not in name:
            assert found[name] >= routing
    assert found["nothing"] == set() and found["query, key"] == routing
    assert found["value, output"] == found["value"] | found["output"]
    assert found["query, key of both"] == routing | found["query, key of fast weights"]
    assert found["query, key of fast weights"] < found["fast weights"]
    assert all(path.startswith(delta) for path in found["fast weights"])
    everything = put_back(before)
    assert found["all but query, key"] == everything - routing
    assert len(found["MLPs"]) == 6 and len(found["embeddings"]) == 2


def test_fine_tuning_goes_on_with_another_rule_at_a_share_of_rates_and_tokens():
    preset = qk_restore.cpu()
    (pairs,) = preset.depths
    first = qk_restore._learning_to_recall({pairs: preset.config}, preset)[0]
    with flagsaver.flagsaver():
        qk_restore.flags.FLAGS.mark_as_parsed()
        (chain, far) = qk_restore._fine_tuned([first], Path("runs/x"))
    before, after = first.config, chain.config
    asked = {"skills": "recall+chain+far_chain", "factor": 1, "pairs": pairs}
    assert before.task.setting() == asked
    assert after.task.setting() == asked | {"skills": "chain", "factor": 3}
    assert far.config.task.setting() == asked | {"skills": "far_chain", "factor": 3}
    assert after.train.tokens == before.train.tokens // 5
    for rate in ("muon_learning_rate", "adamw_learning_rate"):
        assert getattr(after.optimizer, rate) == getattr(before.optimizer, rate) / 2
    name = first.name.replace("-s0", "-s{seed}")
    assert after.train.warm_start == f"runs/x/cells/{name}"
    assert after.model == before.model and after.train.seed == before.train.seed
