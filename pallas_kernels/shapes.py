"""Named real shapes of the rule, for tests and benchmarks alike (specs/kernels.md, section 8)."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B sequences of T tokens, H key heads of Dk, Hv value heads of Dv."""

    B: int
    T: int
    H: int
    Hv: int
    Dk: int
    Dv: int

    def bytes_moved(self, token_bytes: int, backward: bool) -> int:
        """Least traffic to and from memory: every array once, no residual but the inputs.

        Forward reads q, k, v, gates and the initial state, writes output and final state; backward
        reads those inputs and both cotangents and writes six gradients. Gates and states are
        float32. With more than one chunk the backward also needs the chunk-start states, which are
        not counted here.
        """
        keys = self.B * self.T * self.H * self.Dk * token_bytes
        values = self.B * self.T * self.Hv * self.Dv * token_bytes
        gates = 2 * self.B * self.T * self.Hv * 4
        state = self.B * self.Hv * self.Dk * self.Dv * 4
        if backward:
            return 4 * keys + 3 * values + 2 * gates + 3 * state
        return 2 * keys + 2 * values + gates + 2 * state

    def flops(self, backward: bool) -> int:
        """Of the recurrence's own products, S k, the write and S q; twice as many backward.

        A chunkwise form does more, between the tokens of a chunk, to have matrix products at all.
        """
        forward = 6 * self.B * self.T * self.Hv * self.Dk * self.Dv
        return 2 * forward if backward else forward


SHAPES = {
    "S1": Shape(B=8, T=4096, H=16, Hv=16, Dk=128, Dv=128),  # a pretrained model's long sequence
    "S2": Shape(B=512, T=24, H=16, Hv=16, Dk=128, Dv=128),  # Rule 110 windows, large heads
    "S3": Shape(B=512, T=75, H=16, Hv=16, Dk=128, Dv=128),  # Depo windows, large heads
    "S4": Shape(B=512, T=24, H=4, Hv=4, Dk=64, Dv=64),  # the paper's Rule 110 model
    "S4b": Shape(B=512, T=75, H=4, Hv=4, Dk=64, Dv=64),
    "C1": Shape(B=64, T=24, H=2, Hv=2, Dk=32, Dv=32),  # what a CPU trains on
    "C2": Shape(B=2, T=1024, H=4, Hv=4, Dk=64, Dv=64),
}
