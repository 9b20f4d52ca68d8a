"""Algorithm 1: what the loop carries, what it forgets, and its gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal

from sleep_jax import sleep
from sleep_jax.config import SleepConfig
from sleep_jax.model import decoder
from sleep_jax.training.step import Program, make_wake_step
from tests import tiny

BATCH, WINDOWS, LENGTH = 3, 4, 6
CONTEXT = jax.random.randint(jax.random.key(1), (BATCH, WINDOWS, LENGTH), 0, 2)
TOKENS = jax.random.randint(jax.random.key(2), (BATCH, 1, 5), 0, 3)


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(decoder.init, tiny.MODEL))(jax.random.key(0))


@pytest.fixture(scope="module")
def model(params):
    bound = sleep.bind(tiny.MODEL, params)
    return tiny.compiled(bound)


def no_fast(batch=BATCH):
    return decoder.initial_fast_weights(tiny.MODEL, batch)


def test_shapes_and_dtypes(model):
    fast = sleep.read(model, CONTEXT, no_fast(), SleepConfig(passes=2))
    logits, after = sleep.wake(model, TOKENS, fast)
    assert logits.shape == (BATCH, 1, 5, tiny.MODEL.vocab_size) and logits.dtype == jnp.float32
    assert {k: v.dtype for k, v in after.items()} == {"block_01_gated_delta_net": jnp.float32}
    assert all(np.any(v != 0) for v in fast.values())


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_a_scan_of_passes_is_that_many_calls(model, passes):
    h, fast = model.embed(CONTEXT[:, 0]), no_fast()
    scanned = sleep.sleep(model, h, fast, SleepConfig(passes=passes))
    for _ in range(passes):
        h, fast = model.blocks(h, fast)
    assert_trees_all_close(scanned, fast, rtol=1e-5, atol=1e-6)


def test_passes_read_the_features_of_the_pass_before(model):
    """Not N identical writes: pass 2 on fresh features gives other fast weights."""
    h = model.embed(CONTEXT[:, 0])
    _, once = model.blocks(h, no_fast())
    _, repeated = model.blocks(h, once)
    slept = sleep.sleep(model, h, no_fast(), SleepConfig(passes=2))
    difference = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), slept, repeated)
    assert max(difference.values()) > 1e-3


def test_what_one_pass_of_one_fast_weight_block_writes_hangs_on_the_window_alone(model):
    """It is affine in the state: decay, key and value come from the window, whatever is in it.

    So it cannot tell the first window from the fourth. A second pass can, as its features have
    read the state; unless the fast weights are all that is handed on.
    """
    h = model.embed(CONTEXT[:, 0])
    _, one = model.blocks(model.embed(CONTEXT[:, 1]), no_fast())
    _, other = model.blocks(model.embed(CONTEXT[:, 2]), no_fast())
    both = jax.tree.map(jnp.add, one, other)

    def bent(config: SleepConfig) -> float:
        write = functools.partial(sleep.sleep, model, h, config=config)
        after = (write(both), write(no_fast()), write(one), write(other))
        return max(jax.tree.leaves(jax.tree.map(_departure, *after)))

    assert bent(SleepConfig(passes=1)) < 1e-6
    assert bent(SleepConfig(passes=3, carry="fast_weights")) < 1e-6
    assert bent(SleepConfig(passes=2)) > 1e-2
    assert bent(SleepConfig(passes=2, carry="features")) > 1e-2


def _departure(both, none, one, other) -> float:
    """How far from f(a + b) + f(0) = f(a) + f(b), relative to f(0)."""
    return float(jnp.linalg.norm(both + none - one - other) / jnp.linalg.norm(none))


def test_what_a_pass_hands_on_alone(model):
    """Three passes by hand: the other is in each as it was before the window."""
    h = model.embed(CONTEXT[:, 1])
    _, before = model.blocks(model.embed(CONTEXT[:, 0]), no_fast())
    features, fast = h, before
    for _ in range(2):
        features, _ = model.blocks(features, before)
        _, fast = model.blocks(h, fast)
    for carry, entry in (("features", (features, before)), ("fast_weights", (h, fast))):
        _, expected = model.blocks(*entry)
        slept = sleep.sleep(model, h, before, SleepConfig(passes=3, carry=carry))
        assert_trees_all_close(slept, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_reading_can_be_cut_between_any_windows(model, cut):
    config = SleepConfig(passes=2)
    whole = sleep.read(model, CONTEXT, no_fast(), config)
    first = sleep.read(model, CONTEXT[:, :cut], no_fast(), config)
    assert_trees_all_equal(sleep.read(model, CONTEXT[:, cut:], first, config), whole)


def test_prediction_windows_can_be_cut_between_any_windows(model):
    windows = jnp.concatenate([TOKENS, TOKENS], axis=1)
    whole, final = sleep.wake(model, windows, no_fast())
    head, fast = sleep.wake(model, windows[:, :1], no_fast())
    tail, fast = sleep.wake(model, windows[:, 1:], fast)
    # Not bitwise: the unembedding is fused differently with one window and with two.
    joined = jnp.concatenate([head, tail], axis=1)
    assert_trees_all_close(joined, whole, rtol=1e-5, atol=1e-6)
    assert_trees_all_close(fast, final, rtol=1e-5, atol=1e-6)


def test_prediction_is_causal(model):
    fast = sleep.read(model, CONTEXT, no_fast(), SleepConfig(passes=1))
    logits, _ = sleep.wake(model, TOKENS, fast)
    for position in range(TOKENS.shape[-1]):
        changed = TOKENS.at[:, :, position].set((TOKENS[:, :, position] + 1) % 3)
        other, _ = sleep.wake(model, changed, fast)
        difference = jnp.max(jnp.abs(other - logits), axis=(0, 1, 3))
        assert np.all(difference[:position] == 0) and difference[position] > 0


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("rule", ["gated_delta", "jet"])
def test_nothing_but_the_fast_weights_crosses_a_boundary(rule, held):
    """Perturb context features to first order: with the fast weights held, nothing changes."""
    config = tiny.with_rule(tiny.MODEL, rule)
    bound = sleep.bind(config, decoder.init(config, jax.random.key(0)))

    def core(h, fast):
        h, fast = bound.core(h, fast)
        return h, jax.lax.stop_gradient(fast) if held else fast

    def prediction(embedded):
        # The "tokens" of window i are its index, so that embed can hand out perturbed features.
        windows = jnp.broadcast_to(jnp.arange(WINDOWS)[None, :, None], (BATCH, WINDOWS, 1))
        model = bound._replace(embed=lambda tokens: embedded[:, tokens[0, 0]], core=core)
        fast = sleep.read(model, windows, no_fast(), SleepConfig(passes=2))
        return jnp.sum(sleep.wake(bound, TOKENS, fast)[0] ** 2)

    gradient = jax.grad(prediction)(
        bound.embed(CONTEXT.reshape(BATCH, -1)).reshape(BATCH, WINDOWS, LENGTH, -1)
    )
    size = jnp.max(jnp.abs(gradient), axis=(0, 2, 3))  # one number a window
    assert np.all(size == 0) if held else np.all(size > 0)


def test_a_perturbed_context_changes_nothing_with_fast_weights_held(model):
    fast = sleep.read(model, CONTEXT, no_fast(), SleepConfig(passes=2))
    perturbed = sleep.read(model, CONTEXT.at[0, 0, 0].add(1), no_fast(), SleepConfig(passes=2))
    logits = sleep.wake(model, TOKENS, fast)[0]
    assert np.any(sleep.wake(model, TOKENS, perturbed)[0][0] != logits[0])
    mixed = jax.tree.map(lambda a, b: a.at[0].set(b[0]), perturbed, fast)
    assert_trees_all_equal(sleep.wake(model, TOKENS, mixed)[0], logits)


def test_positions_restart_in_every_window(model):
    """The same window with the same fast weights writes the same, wherever it stands."""
    config = SleepConfig(passes=2)
    alone = sleep.read(model, CONTEXT[:, 2:3], no_fast(), config)
    third = sleep.read(model, CONTEXT[:, 2:], no_fast(), config)
    again = sleep.read(model, CONTEXT[:, 3:], alone, config)
    assert_trees_all_equal(third, again)


def test_the_wake_program_does_not_depend_on_the_number_of_passes():
    def lowered(passes):
        program = Program.of(tiny.run_config(passes), "cpu")
        shapes = jax.eval_shape(lambda: (decoder.init(tiny.MODEL, jax.random.key(0)), no_fast()))
        return make_wake_step(program).lower(shapes[0], TOKENS, shapes[1]).as_text()

    assert lowered(1) == lowered(6)
    assert "while" in lowered(1)


def loss(params, fast, config, model_config=tiny.MODEL):
    bound = sleep.bind(model_config, params)
    logits, _ = sleep.wake(bound, TOKENS, sleep.read(bound, CONTEXT, fast, config))
    return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[..., 0])


def test_rematerialisation_changes_memory_not_numbers(params):
    gradients = [
        jax.jit(jax.grad(functools.partial(loss, config=SleepConfig(passes=2, remat=remat))))(
            params, no_fast()
        )
        for remat in ("none", "pass", "window")
    ]
    for other in gradients[1:]:
        assert_trees_all_close(other, gradients[0], rtol=1e-4, atol=1e-6)


def test_gradient_through_two_passes_against_finite_differences(params, monkeypatch):
    """float64 from end to end; every parameter moves along one random direction."""
    monkeypatch.setattr(jax.nn, "dot_product_attention", tiny.float64_attention)
    config = dataclasses.replace(tiny.MODEL, activation_dtype="float64")
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        fast = jax.tree.map(lambda x: x.astype(jnp.float64), no_fast())
        f = jax.jit(
            functools.partial(loss, config=SleepConfig(passes=2, remat="pass"), model_config=config)
        )
        gradient = jax.jit(jax.grad(f))(params, fast)
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(3), len(leaves))
        for index, key in enumerate(keys):
            step = 1e-5 * jax.random.normal(key, leaves[index].shape, jnp.float64)
            moved = [
                f(
                    treedef.unflatten(
                        leaves[:index] + [leaves[index] + sign * step] + leaves[index + 1 :]
                    ),
                    fast,
                )
                for sign in (1, -1)
            ]
            numeric = (moved[0] - moved[1]) / 2
            analytic = jnp.vdot(jax.tree.leaves(gradient)[index], step)
            np.testing.assert_allclose(analytic, numeric, rtol=1e-5, atol=1e-12)
