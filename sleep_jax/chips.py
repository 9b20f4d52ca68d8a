"""Peak figures of TPUs and GPUs, per device as JAX counts devices. Data only; imports no JAX.

A TPU7x chip is two JAX devices, each with its own half of the HBM and of the peaks; the other TPUs
are one device a chip. Figures are those of Google's pages, which round: of HBM the compiler gives a
program somewhat less. ICI is the bandwidth out of a chip over all its links at once, half of what
the pages call bidirectional.

Sources, read in November 2026: https://docs.cloud.google.com/tpu/docs/tpu7x (its table compares
v5p, v6e and TPU7x) and https://docs.cloud.google.com/tpu/docs/v5e. H100 SXM and H200 SXM: NVIDIA's
data sheets as others quote them (dense, not the figure with sparsity; one way over NVLink).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device can do at most.

    Attributes:
      name: of the generation, as in the names of topologies.
      devices_per_chip: JAX devices that share a chip.
      hbm_bytes: capacity, as documented.
      program_bytes: what the compiler lets a program have of it; libtpu 0.0.x says so where one
        does not fit ("exceeds available HBM (15.75G)"). On a GPU JAX takes three quarters.
      bf16_flops: multiply-adds of bfloat16 in the matrix units, two operations each, per second.
      hbm_bandwidth: bytes per second.
      ici_bandwidth: bytes per second that leave the device, over all its links together.
      source: where the figures are from.
    """

    name: str
    devices_per_chip: int
    hbm_bytes: float
    program_bytes: float
    bf16_flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    source: str


_GIB = 2**30
_TPU7X = "https://docs.cloud.google.com/tpu/docs/tpu7x"
_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"

# By `jax.Device.device_kind`.
CHIPS = {
    "TPU v5 lite": Chip(
        "v5e",
        1,
        16 * _GIB,
        15.75 * _GIB,
        197e12,
        819e9,
        200e9,
        "https://docs.cloud.google.com/tpu/docs/v5e",
    ),
    "TPU v5": Chip("v5p", 1, 95 * _GIB, 95.74 * _GIB, 459e12, 2765e9, 600e9, _TPU7X),
    "TPU v6 lite": Chip("v6e", 1, 32 * _GIB, 31.25 * _GIB, 918e12, 1638e9, 400e9, _TPU7X),
    "NVIDIA H100 80GB HBM3": Chip("h100", 1, 80e9, 60e9, 989e12, 3350e9, 450e9, _H100),
    "NVIDIA H200": Chip("h200", 1, 141e9, 105.75e9, 989e12, 4800e9, 450e9, _H200),
    "TPU7x": Chip("tpu7x", 2, 96 * _GIB, 94.75 * _GIB, 2307e12 / 2, 7380e9 / 2, 300e9, _TPU7X),
}
