"""Settings of every test process; they must come before JAX is first imported."""

import atexit
import gc
import os
import shutil
import tempfile

from experiments.presets import FAST_COMPILATION

if "TEST_DEVICE" not in os.environ:  # make test-device
    os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu, where it is installed, must not look for a TPU
    # Compiling is most of what the tests do: on CPU a third of it without the fusion emitters.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"
# Tracing makes objects by the million and hardly any in cycles: a twentieth of the time.
gc.set_threshold(100_000, 20, 20)
# What one sweep has compiled, the next ones need not; the workers of pytest-xdist inherit it.
if "SWEEP_CACHE" not in os.environ:
    os.environ["SWEEP_CACHE"] = tempfile.mkdtemp(prefix="compilation_cache")
    atexit.register(shutil.rmtree, os.environ["SWEEP_CACHE"], ignore_errors=True)
