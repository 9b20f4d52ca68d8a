"""Random words by example, for tasks that draw a range of examples at once."""

import numpy as np
from numpy.typing import NDArray

_WORDS_PER_COUNTER = 4  # Philox 4x64 makes four words from each value of its counter.


def random_words(
    seed: int, split: int, start: int, count: int, size: int, stream: int = 0
) -> NDArray[np.uint64]:
    """Random uint64 `[count, size]`: example i owns a fixed block of Philox's counter.

    So a range is drawn at once and is the same however it is cut. `stream` is the top word of the
    counter.
    """
    blocks = -(-size // _WORDS_PER_COUNTER)
    philox = np.random.Philox(
        key=np.array([seed, split], np.uint64),
        counter=np.array([start * blocks, 0, 0, stream], np.uint64),
    )
    return philox.random_raw(count * blocks * _WORDS_PER_COUNTER).reshape(count, -1)[:, :size]
