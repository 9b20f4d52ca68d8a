"""Settings of every test process; they must come before JAX is first imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu, where it is installed, must not look for a TPU
# Compiling is most of what the tests do.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
