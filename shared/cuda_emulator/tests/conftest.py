"""What the tests of the emulator share; nothing of it comes from the repository around it."""

import sys
import zlib
from collections.abc import Iterator

import cuda_emulator
import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="session")
def linux() -> None:
    """Skip everything where the emulator cannot run."""
    if sys.platform != "linux":
        pytest.skip(f"the CUDA emulator needs Linux; this is {sys.platform}")


@pytest.fixture(params=cuda_emulator.SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test under each schedule; what was reported and warned of before is forgotten."""
    cuda_emulator.activate_anyway(announce=False)
    cuda_emulator.reports(), cuda_emulator.warnings()
    with cuda_emulator.settings(schedule=request.param, seed=7):
        yield request.param


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator that depends on the test's name only."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
