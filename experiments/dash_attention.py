"""What is lost if attention reads few chunks of its cache, and what teaches it which?

    python -m experiments.dash_attention --preset=cpu [--pairs=16] [--chunk=4] [--passes=1,2]
        [--arms=full,dash,untaught] [--seeds=0,1] [--workdir=DIR] [--dry_run]

DashAttention (arXiv 2605.18753) at the size of a laptop, beside sleep: recall of pairs
(sleep_jax/tasks/recall.py) by a transformer that keeps its whole cache, by the same one whose
queries are routed to chunks of it, and by hybrids that keep no cache but fast weights. All learn
from scratch. Each transformer is then read at other settings of what it reads, without training:
routed ones with other gammas or numbers of chunks, the one that reads everything with both.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import arms, binary, cells, cli, recall_pairs
from experiments.cells import Cell
from experiments.presets import Preset
from experiments.readings import state_bytes, write_missing
from experiments.recall_pairs import PAIRS
from experiments.report.words import AS_TRAINED
from sleep_jax.config import RunConfig
from sleep_jax.model.config import RoutingConfig

if TYPE_CHECKING:
    from sleep_jax.tasks.task import Batch
    from sleep_jax.trained import Trained

# What teaches which chunks to read.
ARMS: dict[str, dict[str, Any]] = {
    "dash": {"prior": "scaled", "sigma": 1e6},
    "sigma_1": {"prior": "scaled", "sigma": 1.0},
    "straight_through": {"prior": "straight_through"},
    "untaught": {"prior": "none"},
    "top_k": {"select": "top_k", "prior": "none"},
}
_CHUNK = flags.DEFINE_integer("chunk", 4, "b, tokens of a chunk.", lower_bound=1)
GAMMAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
TOPS = (1, 2, 4, 8)


def cpu() -> Preset:
    """`make experiment EXP=dash_attention`: 16 pairs, 64 tokens, 24 thousand parameters.

    One seed: 7.1 minutes on two cores of an Intel Xeon (Emerald Rapids), with the installation.
    Expected: experiments/results/dash_attention/cpu.
    """
    preset = recall_pairs.cpu()
    # At sigma = 1e6 gradients of the routing are a millionth of the others: below Adam's usual eps.
    optimizer = dataclasses.replace(preset.config.optimizer, adamw_eps=1e-12)
    config = dataclasses.replace(preset.config, optimizer=optimizer)
    return dataclasses.replace(preset, config=config)


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    return recall_pairs.smoke(cpu())


def _planned(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    return arms.planned(at, preset, ARMS, _transformer)


def _transformer(base: RunConfig, arm: str, seed: int) -> Cell:
    own = base.model.attention.routing
    routing = dataclasses.replace(own, chunk=_CHUNK.value, **ARMS[arm])
    return cells.attending(base, seed, routing=routing)


def _read(planned: Sequence[Cell], directory: Path) -> None:
    """Writes readings.json of every run that has none."""

    def measured(cell: Cell, run: Path) -> dict[str, Any]:
        return {"readings": readings(run), "state_bytes": state_bytes(cell.config)}

    write_missing(planned, directory, measured)


def readings(run: Path) -> list[dict[str, Any]]:
    """What a run scores as it was trained, and reading more or less; and how much that is.

    Of transformers with chunks, `share` is the mean share of earlier tokens that a question reads,
    over blocks and heads, `share_by_block` by block, and `found` the share of questions of which
    some head of some block reads the pair.
    """
    from sleep_jax import trained
    from sleep_jax.training.evaluation import evaluation_sequences

    model = trained.load(run)
    sequences = evaluation_sequences(model.config, model.config.train.evaluation_sequences)
    found = []
    for name, routing in _ways(model.config):
        changed = _with_routing(model, routing)
        told = {"read": name, **changed.evaluate(sequences)}
        found.append(told | (_what_is_read(changed, sequences) if routing.chunk else {}))
    return found


def _ways(config: RunConfig) -> Iterator[tuple[str, RoutingConfig]]:
    """Names of readings, and what is read; as trained first."""
    own = config.model.attention.routing
    yield AS_TRAINED, own
    if config.sleep.cache != "keep":
        return
    if own.select == "entmax":  # or all is read
        free = own if own.chunk else RoutingConfig(_CHUNK.value, prior="none")
        for gamma in GAMMAS:
            if not own.chunk or gamma != own.gamma:
                yield f"gamma {gamma:g}", dataclasses.replace(free, gamma=gamma)
    if own.select == "top_k" or not own.chunk:
        for top in TOPS:
            if not own.chunk or top != own.top_k:
                chosen = RoutingConfig(own.chunk or _CHUNK.value, "top_k", top, prior="none")
                yield f"best {top}", chosen


def _with_routing(run: "Trained", routing: RoutingConfig) -> "Trained":
    from sleep_jax import routed_attention

    model, params = routed_attention.with_routing(run.program.model, run.params, routing)
    program = dataclasses.replace(run.program, model=model)
    return dataclasses.replace(run, params=params, program=program)


def _what_is_read(run: "Trained", sequences: "Batch") -> dict[str, Any]:
    """By the tokens that ask, of the sequences."""
    import numpy as np

    from sleep_jax import routed_attention

    rows = len(sequences["mask"])
    context = sequences["context"].reshape(rows, -1)
    tokens = sequences["tokens"].reshape(rows, -1)
    asking = np.flatnonzero(sequences["mask"][0].ravel())
    # A question is the key itself, and what it asks for stands behind it in the context.
    places = 1 + np.argmax(context[:, None] == tokens[:, asking, None], axis=-1)
    whole, queries = np.concatenate([context, tokens], axis=1), context.shape[1] + asking
    chunk = run.program.model.attention.routing.chunk
    shares: dict[str, list[float]] = {}
    hits = []
    for at in range(0, rows, run.config.train.batch_size):
        part = slice(at, at + run.config.train.batch_size)
        read = routed_attention.chunks_read(run.program.model, run.params, whole[part])
        hit = np.zeros(places[part].shape, bool)
        for name, chunks in read.items():
            chunks = np.asarray(chunks)
            share = routed_attention.share_read(chunks, chunk, queries).mean((1, 2))
            shares.setdefault(name, []).extend(map(float, share))
            hit |= routed_attention.found(chunks, chunk, queries, places[part])
        hits.append(hit)
    by_block = {name: float(np.mean(share)) for name, share in shares.items()}
    return {
        "share": float(np.mean(list(by_block.values()))),
        "share_by_block": by_block,
        "found": float(np.concatenate(hits).mean()),
    }


EXPERIMENT = binary.Experiment(
    name="dash_attention",
    presets={"cpu": cpu, "smoke": smoke},
    depth_flag=PAIRS,
    lowest_depth=4,
    about=lambda task: {},
    adapt=recall_pairs.every_pair_once,
    swept={
        "model.attention.routing.chunk": _CHUNK.name,
        **{
            f"model.attention.routing.{field}": arms.ARMS.name
            for field in ("select", "prior", "sigma")
        },
    },
    planned=_planned,
    read=_read,
)


def main() -> int:
    """Plans, runs, reads and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
