"""fast.py keeps the contract of the core: the same tests, with fast.py in the place of mlp_forward.py."""

import pytest
import test_mlp_forward

import fast

pytestmark = pytest.mark.module("fast")
globals().update({name: test for name, test in vars(test_mlp_forward).items() if name.startswith("test_")})


@pytest.fixture
def module():
    return fast
