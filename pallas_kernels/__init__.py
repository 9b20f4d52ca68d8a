"""Fast-weight recurrences: definition, chunkwise XLA form and (next) accelerator kernels."""

from pallas_kernels.api import IMPLEMENTATIONS, gated_delta_rule

__all__ = ["IMPLEMENTATIONS", "gated_delta_rule"]
