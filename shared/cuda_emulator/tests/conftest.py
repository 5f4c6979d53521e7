"""What the tests of the emulator share; nothing of it comes from the repository around it."""

import sys
import zlib

import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="session")
def linux() -> None:
    """Skip everything where the emulator cannot run."""
    if sys.platform != "linux":
        pytest.skip(f"the CUDA emulator needs Linux; this is {sys.platform}")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator that depends on the test's name only."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
