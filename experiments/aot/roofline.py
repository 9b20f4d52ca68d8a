"""The least time that a step can take on a chip: arithmetic, no JAX."""

import dataclasses

from sleep_jax.chips import Chip

ASSUMPTIONS = (
    "Matrix products run at the chip's peak of bfloat16, float32 ones too (one pass, the default "
    "precision); elementwise work is free.",
    "A Pallas kernel of the gated delta rule does the products of its recurrence and no more, in "
    "one pass.",
    "Main memory is read and written at its peak bandwidth, by what the compiled text says lies in "
    "it; tiles with their padding.",
    "A collective over n devices is a ring that uses all links of a device at once: all-reduce "
    "sends 2 (n - 1) / n of its bytes, reduce-scatter and all-to-all (n - 1) / n, all-gather "
    "(n - 1) times its operand. Links, wrap-around ones too, belong to it alone; latency is none.",
    "`overlapped`: products, memory and links work at the same time, the slowest decides. "
    "`one by one`: they take turns.",
    "Not in it: launch of kernels, the input pipeline, the host.",
)


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step on each of three resources."""

    compute: float
    memory: float
    links: float

    @property
    def overlapped(self) -> float:
        """The slowest resource alone, the others at the same time: the least time possible."""
        return max(self.compute, self.memory, self.links)

    @property
    def one_by_one(self) -> float:
        """No two resources at the same time."""
        return self.compute + self.memory + self.links

    @property
    def bound(self) -> str:
        """The resource that decides."""
        times = dataclasses.asdict(self)
        return max(times, key=lambda name: times[name])


def roofline(chip: Chip, flops: float, hbm_bytes: float, sent_bytes: float) -> Roofline:
    """Of one device's operations, bytes to and from main memory, and bytes sent over links."""
    return Roofline(
        compute=flops / chip.bf16_flops,
        memory=hbm_bytes / chip.hbm_bandwidth,
        links=sent_bytes / chip.ici_bandwidth,
    )
