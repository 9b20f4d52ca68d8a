"""What may differ from N passes everywhere: gradients cut short, halting, N and t by step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal

from sleep_jax import curriculum, flops, sleep
from sleep_jax.config import CurriculumConfig, SleepConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder
from sleep_jax.tasks.task import TRAIN
from sleep_jax.training import loop
from tests import tiny
from tests.test_training import state_at, stop_before, train

BATCH, WINDOWS, LENGTH = 3, 2, 6
CONTEXT = jax.random.randint(jax.random.key(1), (BATCH, WINDOWS, LENGTH), 0, 2)
TOKENS = jax.random.randint(jax.random.key(2), (BATCH, 1, 5), 0, 3)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: decoder.init(tiny.MODEL, key))(jax.random.key(0))


def no_fast():
    return decoder.initial_fast_weights(tiny.MODEL, BATCH)


def of_logits(model, fast):
    logits, _ = sleep.wake(model, TOKENS, fast)
    return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[..., 0])


def loss(params, config):
    model = sleep.bind(tiny.MODEL, params)
    return of_logits(model, sleep.read(model, CONTEXT, no_fast(), config))


@pytest.fixture(scope="module")
def whole(params):
    """Loss and gradient of four passes."""
    return jax.jit(jax.value_and_grad(lambda p: loss(p, SleepConfig(passes=4))))(params)


@pytest.mark.parametrize("backward", [1, 2])
def test_a_gradient_cut_short_is_that_of_passes_replaced_by_constants(params, whole, backward):
    """The passes before the last k add to features and fast weights what they did, and no more."""
    passes, early = 4, 4 - backward
    frozen = sleep.bind(tiny.MODEL, params)
    blocks = jax.jit(frozen.blocks)
    fast, added = no_fast(), []
    for window in range(WINDOWS):
        start = (frozen.embed(CONTEXT[:, window]), fast)
        carry = start
        for index in range(passes):
            if index == early:
                added.append(jax.tree.map(jnp.subtract, carry, start))
            carry = blocks(*carry)
        fast = carry[1]

    # Compiled piece by piece, not as one unrolled program.
    one_pass = jax.jit(lambda params, h, fast: sleep.bind(tiny.MODEL, params).blocks(h, fast))
    answer = jax.jit(lambda params, fast: of_logits(sleep.bind(tiny.MODEL, params), fast))

    def explicit(params):
        model, fast = sleep.bind(tiny.MODEL, params), no_fast()
        for window in range(WINDOWS):
            h, fast = jax.tree.map(jnp.add, (model.embed(CONTEXT[:, window]), fast), added[window])
            for _ in range(backward):
                h, fast = one_pass(params, h, fast)
        return answer(params, fast)

    config = SleepConfig(passes=passes, backward_passes=backward)
    cut = jax.jit(jax.value_and_grad(lambda p: loss(p, config)))(params)
    assert_trees_all_close(cut, jax.value_and_grad(explicit)(params), rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(cut[0], whole[0], rtol=1e-6)
    far = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), cut[1], whole[1])
    assert max(jax.tree.leaves(far)) > 1e-3


def test_a_gradient_through_no_fewer_passes_is_the_whole_one(params):
    one, *others = (
        str(jax.make_jaxpr(jax.grad(functools.partial(loss, config=config)))(params))
        for config in (SleepConfig(passes=2, backward_passes=k) for k in (1, 0, 2, 5))
    )
    assert len(set(others)) == 1 and one not in others


def test_sleep_halts_where_an_explicit_loop_does(params):
    """Each sequence alone, pass by pass, until its fast weights change by less than the share."""
    model = sleep.bind(tiny.MODEL, params)
    blocks = jax.jit(model.blocks)
    most, threshold = 6, 0.5
    got, used = jax.jit(
        lambda context: sleep.read_until(model, context, no_fast(), most, threshold)
    )(CONTEXT)
    for row in range(BATCH):
        fast = jax.tree.map(lambda x: x[:1], no_fast())
        for window in range(WINDOWS):
            h, taken, small = model.embed(CONTEXT[row : row + 1, window]), 0, False
            while not small and taken < most:
                before = np.concatenate([np.ravel(x) for x in jax.tree.leaves(fast)])
                h, fast = blocks(h, fast)
                after = np.concatenate([np.ravel(x) for x in jax.tree.leaves(fast)])
                small = np.linalg.norm(after - before) < threshold * np.linalg.norm(after)
                taken += 1
            assert taken == used[row, window]
        assert_trees_all_close({name: x[row : row + 1] for name, x in got.items()}, fast, atol=1e-5)
    assert 1 < used.min() < used.max() <= most  # else the loop above has shown nothing


@pytest.mark.parametrize("threshold, same_as", [(1e-9, 4), (1e9, 1)])
def test_sleep_that_never_or_at_once_halts_is_that_of_so_many_passes(params, threshold, same_as):
    model = sleep.bind(tiny.MODEL, params)
    got, used = sleep.read_until(model, CONTEXT, no_fast(), 4, threshold)
    assert_trees_all_close(
        got, sleep.read(model, CONTEXT, no_fast(), SleepConfig(passes=same_as)), atol=1e-6
    )
    assert (used == same_as).all()


def config(n=4, steps=12, **change):
    return dataclasses.replace(tiny.run_config(n, steps), curriculum=CurriculumConfig(**change))


def test_stages_share_the_first_part_of_a_run():
    rising = config(passes=(1, 2), share=0.5)
    assert curriculum.passes_by_step(rising).tolist() == [1] * 3 + [2] * 3 + [4] * 6
    assert curriculum.passes_by_step(config()).tolist() == [4] * 12


def test_drawn_passes_follow_from_the_configuration_alone():
    drawn = config(steps=400, drawn_passes=(1, 2, 8))
    passes = curriculum.passes_by_step(drawn)
    assert (passes == curriculum.passes_by_step(drawn)).all()
    assert sorted(int((passes == n).sum()) for n in (1, 2, 8)) == [133, 133, 134]
    assert len({tuple(passes[i : i + 3]) for i in range(0, 30, 3)}) > 3  # in no fixed order
    other = dataclasses.replace(drawn, train=dataclasses.replace(drawn.train, seed=1))
    assert (passes != curriculum.passes_by_step(other)).any()
    assert flops.training_flops(drawn) == flops.training_flops(other)


def test_examples_are_as_deep_as_their_step_says():
    run = config(rollout_steps=(0, 3), share=0.5)
    sample, size = curriculum.sampler(run, run.task), run.train.batch_size
    for step, depth in ((0, 0), (2, 0), (3, 3), (5, 3), (6, 1), (11, 1)):
        task = dataclasses.replace(run.task, rollout_steps=depth)
        for start, count in ((step * size, size), (step * size + size // 2, size // 2)):
            assert_trees_all_equal(
                sample(start, count), task.sample(run.train.seed, TRAIN, start, count)
            )


def test_flops_are_those_of_each_step():
    plain = {n: flops.training_flops_per_step(tiny.run_config(n)) for n in (1, 2, 4)}
    drawn = config(drawn_passes=(1, 4))
    ones = int((curriculum.passes_by_step(drawn) == 1).sum())
    assert flops.training_flops(drawn) == ones * plain[1] + (12 - ones) * plain[4]
    cut = dataclasses.replace(tiny.run_config(4), sleep=SleepConfig(passes=4, backward_passes=2))
    # Forward through four, backward, at twice the price, through two.
    assert 3 * flops.training_flops_per_step(cut) == plain[4] + 2 * plain[2]


def test_an_elastic_run_evaluates_resumes_and_counts(tmp_path):
    run = config(2, drawn_passes=(1, 2), rollout_steps=(0,), share=0.5)
    run = dataclasses.replace(
        run,
        train=dataclasses.replace(
            run.train, evaluate_passes=(1, 3), halting_thresholds=(0.3,), keep_checkpoints=4
        ),
    )
    run.validate()
    whole = train(run, tmp_path / "whole")
    with pytest.raises(loop.Interrupted):
        train(run, tmp_path / "cut", should_stop=stop_before(7))
    resumed = train(run, tmp_path / "cut")
    assert_trees_all_equal(state_at(tmp_path / "cut", 12), state_at(tmp_path / "whole", 12))
    assert set(whole["accuracy_by_passes"]) == {"1", "3"}
    (halted,) = whole["halting"]
    assert halted["most_passes"] == 3 and 1 <= halted["mean_passes"] <= 3
    assert resumed["halting"] == whole["halting"]
    assert whole["train_flops"] == flops.training_flops(run)
    assert whole["temporary_bytes"] > 0


@pytest.mark.parametrize(
    "change, field",
    [
        ({"passes": (0,)}, "curriculum.passes"),
        ({"rollout_steps": (-1,)}, "curriculum.rollout_steps"),
        ({"share": 0.0}, "curriculum.share"),
        ({"passes": (1,), "drawn_passes": (1, 2)}, "curriculum.drawn_passes"),
    ],
)
def test_an_impossible_curriculum_is_refused(change, field):
    with pytest.raises(UserError, match=rf"^{field}=.*allowed: "):
        config(**change).validate()


@pytest.mark.parametrize("change", [{"cache": "slide"}, {"carry": "features"}])
def test_halting_needs_fast_weights_alone_and_all_that_a_pass_leaves(change):
    run = tiny.run_config(halting_thresholds=(0.1,))
    run = dataclasses.replace(run, sleep=SleepConfig(passes=2, **change))
    with pytest.raises(UserError, match=r"^train.halting_thresholds="):
        run.validate()
