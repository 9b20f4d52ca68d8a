"""The input pipeline: slices over processes, order, and exact resumption."""

import functools

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sleep_jax.errors import UserError
from sleep_jax.tasks import rule110
from sleep_jax.tasks.pipeline import BatchSource, make_iterator

SAMPLE = functools.partial(rule110.sample, rule110.Rule110Config(), 1, rule110.TRAIN)


def source_of(*, batches: int = 9, process: int = 0, processes: int = 1) -> BatchSource:
    return BatchSource(
        SAMPLE,
        global_batch_size=8,
        num_batches=batches,
        process_index=process,
        process_count=processes,
    )


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_together_hold_the_same_global_batch(processes):
    parts = [
        list(make_iterator(source_of(process=p, processes=processes))) for p in range(processes)
    ]
    assert [len(part) for part in parts] == [9] * processes
    for b in range(9):
        slices = [part[b] for part in parts]
        assert {len(s["context"]) for s in slices} == {8 // processes}
        whole = {name: np.concatenate([s[name] for s in slices]) for name in slices[0]}
        assert_same(whole, SAMPLE(8 * b, 8))


def test_iteration_is_lazy_and_reads_ahead_only_a_little():
    asked = []

    def sample(start: int, count: int) -> dict[str, np.ndarray]:
        asked.append((start, count))
        return {"index": np.arange(start, start + count)}

    source = BatchSource(
        sample, global_batch_size=2, num_batches=10**9, process_index=0, process_count=1
    )
    assert len(source) == 10**9 and not asked
    iterator = make_iterator(source)
    assert [next(iterator)["index"].tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    iterator.close()
    assert 3 <= len(asked) <= 3 + 5
    assert asked == [(2 * i, 2) for i in range(len(asked))]


@pytest.mark.parametrize("consumed", [0, 1, 5, 9])
def test_state_resumes_with_the_next_batch(consumed):
    expected = list(make_iterator(source_of()))
    iterator = make_iterator(source_of())
    for _ in range(consumed):
        next(iterator)
    resumed = make_iterator(source_of())
    resumed.set_state(iterator.get_state())
    rest = list(resumed)
    assert len(rest) == 9 - consumed
    for left, right in zip(rest, expected[consumed:], strict=True):
        assert_same(left, right)


def test_position_survives_a_checkpoint(tmp_path):
    expected = list(make_iterator(source_of()))
    iterator = make_iterator(source_of())
    for _ in range(4):
        next(iterator)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    resumed = make_iterator(source_of())
    next(resumed)  # A used iterator has to jump as well.
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.restore(
            4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed))
        )
    for left, right in zip(list(resumed), expected[4:], strict=True):
        assert_same(left, right)


def test_bad_sizes_and_indices_are_refused():
    def make(batch: int, process: int, processes: int) -> BatchSource:
        return BatchSource(
            SAMPLE,
            global_batch_size=batch,
            num_batches=1,
            process_index=process,
            process_count=processes,
        )

    for batch, processes in ((8, 3), (0, 1), (-4, 2)):
        with pytest.raises(UserError, match=f"global_batch_size={batch}.*processes, {processes}"):
            make(batch, 0, processes)
    for process in (-1, 2):
        with pytest.raises(ValueError, match=f"process_index={process}"):
            make(8, process, 2)
    for index in (-1, 1):
        with pytest.raises(IndexError):
            make(8, 0, 2)[index]
