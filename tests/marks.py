"""What a test needs in order to run at all."""

import os

import pytest

needs_eight_devices = pytest.mark.skipif(
    "--xla_force_host_platform_device_count=8" not in os.environ["XLA_FLAGS"],
    reason="make test-multidevice",
)
