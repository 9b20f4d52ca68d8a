"""The input pipeline: any task's sampler, cut into batches and processes, as a grain iterator."""

from collections.abc import Callable

import grain

from sleep_jax.errors import UserError
from sleep_jax.tasks.task import Batch


class BatchSource:
    """A grain random-access source whose element is one process's slice of a global batch.

    Global batch b is examples b*G .. (b+1)*G-1 and process p gets the p-th of `process_count`
    equal contiguous slices, so the global batch does not depend on the number of processes.
    """

    def __init__(
        self,
        sample: Callable[[int, int], Batch],
        *,
        global_batch_size: int,
        num_batches: int,
        process_index: int,
        process_count: int,
    ):
        """Describes the batches; nothing is sampled yet.

        Args:
            sample: `(start, count)` to arrays `[count, ...]`, a pure function of the indices.
            global_batch_size: G, examples per batch over all processes.
            num_batches: length of the source.
            process_index: p, this process, in 0 .. process_count-1.
            process_count: number of processes.

        Raises:
            UserError: the batch is smaller than 1 or cannot be split evenly.
            ValueError: process_index is out of range.
        """
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index={process_index}: must be in 0..{process_count - 1}")
        if global_batch_size < 1 or global_batch_size % process_count:
            raise UserError(
                f"global_batch_size={global_batch_size}: must be a positive multiple of the "
                f"number of processes, {process_count}"
            )
        self._sample = sample
        self._global_batch_size = global_batch_size
        self._num_batches = num_batches
        self._count = global_batch_size // process_count
        self._offset = process_index * self._count

    def __len__(self) -> int:
        """Number of batches."""
        return self._num_batches

    def __getitem__(self, index: int) -> Batch:
        """This process's slice of a global batch: arrays `[G / process_count, ...]`.

        Raises:
            IndexError: index is not in 0 .. num_batches-1.
        """
        if not 0 <= index < self._num_batches:
            raise IndexError(f"batch {index} of {self._num_batches}")
        return self._sample(index * self._global_batch_size + self._offset, self._count)


def make_iterator(source: BatchSource) -> grain.DatasetIterator[Batch]:
    """Iterates once over the source, in order, preparing four batches ahead on one thread.

    The position is that of the consumer, not of the thread, so saving it with
    `grain.checkpoint.CheckpointSave(iterator)` and restoring it into a new iterator with
    `CheckpointRestore` (or `get_state` and `set_state`) goes on with the next batch unseen.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))
