"""Hard eviction first, then a sliding window: the recipe for models whose cache slides."""

import dataclasses

import jax
import numpy as np
import pytest
from chex import assert_trees_all_equal

from experiments import cells
from sleep_jax import flops
from sleep_jax.config import CurriculumConfig, SleepConfig
from sleep_jax.curriculum import Stage, stages_by_step
from sleep_jax.errors import UserError
from sleep_jax.training import loop
from tests import tiny
from tests.test_training import state_at, stop_before, train

SLIDE, EVICT = (SleepConfig(passes=2, cache=cache) for cache in ("slide", "evict"))


def run(loop_config=SLIDE, hard=0.0, trained="all"):
    curriculum = CurriculumConfig(hard_eviction=hard, hard_eviction_trained=trained)
    return dataclasses.replace(tiny.run_config(), sleep=loop_config, curriculum=curriculum)


def until(step, config, directory):
    with pytest.raises(loop.Interrupted):
        train(config, directory, should_stop=stop_before(step))
    return state_at(directory, step)


def test_the_first_share_evicts():
    stages, which = stages_by_step(run(hard=0.25, trained="fast_weights"))
    early, late = Stage(2, "evict", "fast_weights"), Stage(2, "slide", "all")
    assert [stages[i] for i in which] == [early] * 3 + [late] * 9
    assert stages_by_step(run())[0] == [late]


def test_it_is_a_run_of_each_kind_one_after_the_other(tmp_path):
    both = run(hard=0.25)
    both.validate()
    until(3, run(EVICT), tmp_path / "by_hand")
    with pytest.raises(UserError, match="holds a run with sleep.cache='evict', asked was 'slide'"):
        train(run(SLIDE), tmp_path / "by_hand")
    (tmp_path / "by_hand" / "config.json").unlink()
    train(run(SLIDE), tmp_path / "by_hand")
    train(both, tmp_path / "both")
    assert_trees_all_equal(state_at(tmp_path / "both", 12), state_at(tmp_path / "by_hand", 12))


def test_fast_weights_alone_leave_the_rest_as_it_was(tmp_path):
    config = run(hard=0.25, trained="fast_weights")
    # Decay would move parameters that have no gradient.
    optimizer = dataclasses.replace(config.optimizer, weight_decay=0.1)
    config = dataclasses.replace(config, optimizer=optimizer)
    drawn = until(0, config, tmp_path / "start")["params"]
    warm = until(3, config, tmp_path / "run")["params"]
    train(config, tmp_path / "run")
    end = state_at(tmp_path / "run", 12)["params"]
    for name, block in drawn.items():
        moved = jax.tree.map(lambda x, y: bool((x != y).any()), block, warm[name])
        assert np.all(jax.tree.leaves(moved)) == name.endswith("gated_delta_net"), name
        later = jax.tree.map(lambda x, y: bool((x != y).any()), warm[name], end[name])
        assert np.all(jax.tree.leaves(later)), name


def test_flops_are_those_of_the_two_stages():
    counts = [flops.training_flops_per_step(run(kind)) for kind in (EVICT, SLIDE)]
    assert counts[0] < counts[1]
    assert flops.training_flops(run(hard=0.25)) == 3 * counts[0] + 9 * counts[1]
    assert flops.training_flops(run(hard=0.25, trained="fast_weights")) < flops.training_flops(
        run(hard=0.25)
    )


def test_cells_say_so_and_baselines_have_none():
    base = run(hard=0.25, trained="fast_weights")
    cell = cells.hybrid(base, 2, 0)
    assert cell.name.endswith("-hard0.25-alone")
    assert cell.identity()["regime"] == "hard eviction for 25% of fast weights alone"
    for cache in ("evict", "keep"):
        cells.transformer(base, cache, 0).config.validate()
    matched = cells.matched(base, 2, 0, cells.TOKENS)
    one_step = flops.training_flops(matched.config) / matched.config.steps
    assert abs(matched.flops - cell.flops) < one_step


@pytest.mark.parametrize(
    "config, field",
    [
        (run(EVICT, hard=0.25), "curriculum.hard_eviction=0.25"),
        (run(hard=1.0), "curriculum.hard_eviction=1.0"),
        (run(hard=0.5, trained="ssm"), "curriculum.hard_eviction_trained='ssm'"),
    ],
)
def test_what_cannot_be_is_refused(config, field):
    with pytest.raises(UserError, match=field):
        config.validate()
