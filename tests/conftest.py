"""Settings of every test process; they must come before JAX is first imported."""

import os

from experiments.presets import FAST_COMPILATION

os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu, where it is installed, must not look for a TPU
# Compiling is most of what the tests do: on CPU three times as fast without the fusion emitters.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"
