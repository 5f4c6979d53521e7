"""fast.py keeps the contract of the core: the same tests, with fast.py in the place of activations.py."""

from __future__ import annotations

import pytest
import test_activations
import test_corners

import fast

pytestmark = pytest.mark.module("fast")
ELSEWHERE = {"test_relu_grad_of_nan_is_a_number"}  # fast.py gives NaN: tests/further/test_fast_extremes.py
for _tests in (test_activations, test_corners):
    globals().update({k: v for k, v in vars(_tests).items() if k.startswith("test_") and k not in ELSEWHERE})


@pytest.fixture
def module():
    return fast
