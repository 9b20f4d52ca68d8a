"""Implementations of the gated delta rule, ours and others', as calls that can be timed.

All get the same arrays. Forward is without gradients; "both" is forward and backward, all six
gradients, with cotangents on both outputs.
"""

# torch, transformers and fla are not among the suite's own packages.
# pyright: reportMissingImports=false

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.bench import timing
from pallas_kernels import gated_delta_rule
from pallas_kernels.shapes import Shape

Call = Callable[[int], Any]
Arrays = list[np.ndarray]
_TOKENS = 3  # of the inputs: q, k and v come first
OURS = {  # by platform
    "cpu": ("xla", "oracle"),
    "gpu": ("xla", "gpu", "mosaic", "oracle"),
    "tpu": ("xla", "tpu", "oracle"),
}
TOKEN_SCAN = "token scan"
# Largest relative norm of a difference from the reference, by the dtype of the tokens.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
# Arrays that a timed call goes through in turn are together larger than any cache.
_CACHE_BYTES = 2**27
# What the states of all tokens may take: a scan over tokens keeps them for its backward.
_SCAN_BYTES = 2**32


class Peer(NamedTuple):
    """One implementation. A call runs it so many times and comes back when all is done."""

    forward: Call
    both: Call | None  # None if it cannot be run; `remark` says why
    numpy: Callable[[Any], np.ndarray]
    tolerance: float
    remark: str = ""
    gradients_hold: bool = True


@functools.lru_cache(maxsize=1)  # one shape after the other; S1 takes seconds to draw
def inputs_of(shape: Shape, dtype: str) -> tuple[Arrays, Arrays]:
    """float32 inputs and cotangents; tokens rounded to `dtype`, decays of a trained model."""
    rng = np.random.default_rng(0)
    keys, gates = (shape.B, shape.T, shape.H, shape.Dk), (shape.B, shape.T, shape.Hv)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    rounded = lambda x: x.astype(jnp.dtype(dtype)).astype(np.float32)  # noqa: E731
    state = rng.normal(size=(shape.B, shape.Hv, shape.Dk, shape.Dv))
    inputs = [
        rounded(unit(rng.normal(size=keys)) * shape.Dk**-0.5),
        rounded(unit(rng.normal(size=keys))),
        rounded(rng.normal(size=(*gates, shape.Dv))),
        -rng.exponential(0.1, size=gates),
        rng.uniform(size=gates),
        state,
    ]
    cotangents = [rounded(rng.normal(size=(*gates, shape.Dv))), rng.normal(size=state.shape)]
    return [x.astype(np.float32) for x in inputs], [x.astype(np.float32) for x in cotangents]


def _copies(shape: Shape, dtype: str) -> int:
    """How many sets of arrays a call goes through; on a CPU its window may stay in the cache."""
    if jax.default_backend() == "cpu":
        return 1
    bytes_moved = shape.bytes_moved(jnp.dtype(dtype).itemsize, backward=False)
    return -(-_CACHE_BYTES // bytes_moved)


def _repeated(run: Callable[..., Any], sets: Sequence[Any], wait: Callable[[Any], Any]) -> Call:
    def call(repeats: int) -> Any:
        result = None
        for i in range(repeats):
            result = run(*sets[i % len(sets)])
        return wait(result)

    return call


def _with_backward(rule: Callable[..., Any]) -> Callable[..., Any]:
    """From inputs and cotangents to outputs and gradients, compiled."""

    def run(inputs, cotangents):
        outputs, pullback = jax.vjp(rule, *inputs)
        return outputs, pullback(tuple(cotangents))

    return jax.jit(run)


def ours(implementation: str, shape: Shape, dtype: str) -> Peer:
    """One of this package.

    Raises:
      ValueError: the implementation does not take these arguments.
    """

    def rule(*arrays):
        return gated_delta_rule(*arrays, implementation=implementation)

    inputs, cotangents = inputs_of(shape, dtype)
    first = (
        [jnp.asarray(x, dtype if i < _TOKENS else "float32") for i, x in enumerate(inputs)],
        [jnp.asarray(cotangents[0], dtype), jnp.asarray(cotangents[1])],
    )
    jax.eval_shape(rule, *first[0])
    sets = [first, *(jax.tree.map(jnp.copy, first) for _ in range(_copies(shape, dtype) - 1))]
    forward = _repeated(jax.jit(rule), [x for x, _ in sets], jax.block_until_ready)
    both, remark = _repeated(_with_backward(rule), sets, jax.block_until_ready), ""
    states = 4 * shape.T * shape.B * shape.Hv * shape.Dk * shape.Dv
    if implementation == "oracle" and states > _SCAN_BYTES:
        both, remark = None, f"backward keeps {states / 2**30:.0f} GiB of states"
    return Peer(forward, both, _from_jax, TOLERANCE[dtype], remark)


def _from_jax(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32)


def reference(shape: Shape, dtype: str) -> list[np.ndarray]:
    """Outputs and gradients of "xla" in float32, on the rounded tokens."""

    rule = functools.partial(
        gated_delta_rule, implementation="xla", precision=lax.Precision.HIGHEST
    )
    return [_from_jax(x) for x in jax.tree.leaves(_with_backward(rule)(*inputs_of(shape, dtype)))]


def _torch_peer(rule: Callable[..., Any], shape: Shape, dtype: str, **about: Any) -> Peer:
    """A function of PyTorch with our arguments, on the device that JAX uses."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    inputs, cotangents = inputs_of(shape, dtype)
    of_tokens = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]

    def on_device(x, is_token):
        return torch.from_numpy(x).to(device, of_tokens if is_token else torch.float32)

    first = (
        [on_device(x, i < _TOKENS) for i, x in enumerate(inputs)],
        [on_device(cotangents[0], True), on_device(cotangents[1], False)],
    )
    copied = lambda part: [x.clone() for x in part]  # noqa: E731
    sets = [first, *(tuple(map(copied, first)) for _ in range(_copies(shape, dtype) - 1))]

    def forward(*arrays):
        with torch.no_grad():
            return rule(*arrays)

    def both(arrays, down):
        leaves = [x.detach().requires_grad_() for x in arrays]
        outputs = rule(*leaves)
        down = [d.to(x.dtype) for d, x in zip(down, outputs, strict=True)]
        gradients = torch.autograd.grad(outputs, leaves, down)
        return [x.detach() for x in outputs], gradients

    def wait(result):
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return Peer(
        _repeated(forward, [x for x, _ in sets], wait),
        _repeated(both, sets, wait),
        lambda x: x.detach().float().cpu().numpy(),
        **{"tolerance": TOLERANCE[dtype], **about},
    )


def transformers_peer(shape: Shape, dtype: str, compiled: bool) -> Peer:
    """The chunk function of Qwen3-Next, which wants equal head counts."""
    import torch

    from experiments.bench.torch_peer import chunk_rule

    rule = torch.compile(chunk_rule, dynamic=False) if compiled else chunk_rule
    return _torch_peer(rule, shape, dtype)


def fla_peer(shape: Shape, dtype: str) -> Peer:
    """The Triton path of flash-linear-attention (fla-core 0.6.0).

    Its backward refuses Hopper under Triton 3.4 to 3.7.0, where it computes wrong gradients of q, k
    and the gates. There it is timed all the same, and said to be wrong.
    """
    os.environ["FLA_DISABLE_BACKEND_DISPATCH"] = "1"  # its own kernels, no others
    from fla.ops.common import chunk_o
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    def rule(q, k, v, log_decay, beta, state):
        return chunk_gated_delta_rule(
            q, k, v, g=log_decay, beta=beta, scale=1.0, initial_state=state,
            output_final_state=True,
        )  # fmt: skip

    miscompiled = (
        chunk_o.IS_NVIDIA_HOPPER and chunk_o.TRITON_ABOVE_3_4_0 and not chunk_o.TRITON_ABOVE_3_7_1
    )
    about: dict[str, Any] = {"tolerance": TOLERANCE["bfloat16"]}  # its products are TF32 at best
    if miscompiled:
        chunk_o.TRITON_ABOVE_3_4_0 = False
        about |= {
            "gradients_hold": False,
            "remark": "gradients wrong under this Triton on Hopper (fla issue 640): timing alone",
        }
    return _torch_peer(rule, shape, dtype, **about)


def missing(*names: str) -> str:
    """What cannot be imported, or that PyTorch sees no GPU; empty if nothing is missing."""
    if absent := timing.not_installed(*names):
        return f"not installed: {', '.join(absent)}"
    platform = jax.default_backend()
    if platform == "gpu":
        import torch

        return "" if torch.cuda.is_available() else "this PyTorch sees no GPU"
    return "" if platform == "cpu" else f"not for {platform}"


def peers(shape: Shape, dtype: str, compiled: bool) -> tuple[dict[str, Callable[[], Peer]], dict]:
    """What can be made here by name, not made yet, and why the rest cannot."""
    platform = jax.default_backend()
    found: dict[str, Callable[[], Peer]] = {
        TOKEN_SCAN if name == "oracle" else name: lambda name=name: ours(name, shape, dtype)
        for name in OURS[platform]
    }
    skipped = {}
    if why := missing("torch", "transformers"):
        skipped["transformers"] = why
    else:
        found["transformers, eager"] = lambda: transformers_peer(shape, dtype, False)
        if compiled:
            found["transformers, torch.compile"] = lambda: transformers_peer(shape, dtype, True)
    if platform != "gpu":
        skipped["FLA"] = f"not for {platform}"
    elif why := missing("torch", "triton", "fla"):
        skipped["FLA"] = why
    else:
        found["FLA"] = lambda: fla_peer(shape, dtype)
    return found, skipped
