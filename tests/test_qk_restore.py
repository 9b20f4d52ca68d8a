"""What is put back, and how far: held against the paper's formula in the size of the model."""

import dataclasses

import jax
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal

from sleep_jax import parts, qk_restore
from sleep_jax.model import decoder
from sleep_jax.training.optimizer import path_name
from tests import tiny

MODEL = dataclasses.replace(tiny.TWO_SHARDS, pattern=("gated_delta_net", "attention"))
BEFORE, AFTER = (decoder.init(MODEL, jax.random.key(seed)) for seed in (0, 1))
BLOCK = "block_01_attention/mixer"


def changed(found, after=AFTER):
    """Paths of what is not as after fine-tuning."""
    pairs = zip(jax.tree_util.tree_flatten_with_path(found)[0], jax.tree.leaves(after), strict=True)
    return {path_name(path) for (path, new), old in pairs if not np.array_equal(new, old)}


def projection(tree, name):
    return np.asarray(tree["block_01_attention"]["mixer"]["in"][name], np.float64)


def test_queries_and_keys_of_softmax_attention_are_put_back_and_nothing_else():
    found = qk_restore.qk_restore(BEFORE, AFTER)
    assert changed(found) == {f"{BLOCK}/in/query", f"{BLOCK}/in/key"}
    for name in ("query", "key"):
        np.testing.assert_array_equal(projection(found, name), projection(BEFORE, name))
    assert_trees_all_equal(qk_restore.restored(BEFORE, AFTER, lambda path: True), BEFORE)


def test_what_else_can_be_put_back():
    def of(chosen):
        return changed(qk_restore.restored(BEFORE, AFTER, chosen))

    assert of(parts.attention("value")) == {f"{BLOCK}/in/value"}
    assert of(parts.attention("output")) == {f"{BLOCK}/out/output"}
    mixer = "block_00_gated_delta_net/mixer"
    whole = of(parts.fast_weights)
    assert whole > of(parts.fast_weight_routing)
    assert whole == {path for path in of(lambda path: True) if path.startswith(mixer + "/")}
    assert of(parts.embeddings) == {"embedding", "unembedding"}
    names = ("in/gate", "in/up", "out/down")
    blocks = ("block_00_gated_delta_net", "block_01_attention")
    assert of(parts.mlps) == {f"{block}/mlp/{part}" for block in blocks for part in names}
    assert of(parts.fast_weight_routing) == {
        f"{mixer}/in/query", f"{mixer}/in/key",
        f"{mixer}/query_convolution/kernel", f"{mixer}/key_convolution/kernel",
    }  # fmt: skip


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_qk_pro_is_the_formula_of_the_paper(strength):
    found = qk_restore.qk_pro(MODEL.attention, BEFORE, AFTER, strength)
    assert changed(found) == {f"{BLOCK}/in/query", f"{BLOCK}/in/key"}
    attention = MODEL.attention
    width, group = attention.head_dim, attention.heads // attention.kv_heads
    for head in range(attention.heads):
        mine = slice(head * width, (head + 1) * width)
        theirs = slice(head // group * width, (head // group + 1) * width)
        key = projection(BEFORE, "key")[:, theirs]
        old, new = (projection(tree, "query")[:, mine] for tree in (BEFORE, AFTER))
        lam = strength * np.linalg.eigvalsh(key.T @ key).mean()
        gram = key @ key.T + lam * np.eye(len(key))  # d x d, as the paper has it
        expected = new + (old @ key.T - new @ key.T) @ np.linalg.inv(gram) @ key
        np.testing.assert_allclose(projection(found, "query")[:, mine], expected, atol=1e-6)


def test_its_ends_are_qk_restore_and_keys_alone():
    none, all_of_it = (
        qk_restore.qk_pro(MODEL.attention, BEFORE, AFTER, strength) for strength in (0.0, np.inf)
    )
    assert_trees_all_close(none, qk_restore.qk_restore(BEFORE, AFTER), atol=1e-6)
    keys = qk_restore.restored(BEFORE, AFTER, parts.attention("key"))
    assert_trees_all_equal(all_of_it, keys)
