"""blocked.py keeps the contract of the core: the same tests, with blocked.py in the place of cross_entropy.py."""

from __future__ import annotations

import pytest
import test_cross_entropy

import blocked

pytestmark = pytest.mark.module("blocked")
ELSEWHERE = {"test_other_ranks_are_refused"}  # blocked.py takes them: tests/further/test_blocked.py
globals().update(
    {k: v for k, v in vars(test_cross_entropy).items() if k.startswith("test_") and k not in ELSEWHERE}
)


@pytest.fixture
def module():
    return blocked
