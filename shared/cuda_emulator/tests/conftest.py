"""What the tests of the emulator share; nothing of it comes from the repository around it."""

import zlib

import numpy as np
import pytest


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator that depends on the test's name only."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
