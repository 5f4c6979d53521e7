"""Launching a kernel of a file: sizes are integers, of NumPy too. In a process of its own, which chooses its devices first."""

import subprocess
import sys

import pytest

from shared.projects import ROOT

LAUNCH = """
import sys
from pathlib import Path

import numpy as np

from shared.testing.devices import device_array, launch, start_devices

if reason := start_devices():
    sys.exit("NOT RUN: " + reason)
path = Path(sys.argv[1])
path.write_text('extern "C" __global__ void fill(int* y, int value) { y[threadIdx.x + 2 * threadIdx.y] = value; }')
y = device_array(np.zeros(4, np.int32))
for grid, block in ((1, 4), (np.int64(1), np.int32(4)), ((1, 1), (2, 2)), ([1], [np.uint8(2), 2, 1]), ((1, 1, 1), 4)):
    value = int(y.get()[0]) + 1
    launch(path, "fill", (y, np.int32(value)), grid=grid, block=block)
    assert (y.get() == value).all(), (grid, block, y.get())
for grid, block in ((1.0, 4), (1, 4.0), ((1, 1.0), 4), ("1", 4), (1, None)):
    try:
        launch(path, "fill", (y, np.int32(9)), grid=grid, block=block)
    except TypeError as error:
        assert "integer" in str(error), error
    else:
        raise AssertionError(f"grid {grid!r} and block {block!r} are accepted")
assert 9 not in y.get()
"""


def test_sizes_of_a_launch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(tmp_path / "fill.cu")], capture_output=True, text=True, cwd=ROOT
    )
    if done.stderr.startswith("NOT RUN"):
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
