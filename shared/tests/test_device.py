"""GPU gating: what the driver says decides, and a promised GPU that is absent is a failure."""

import subprocess
import sys

import pytest

from shared.measuring.device import cpu_name, cuda_device_count
from shared.projects import ROOT


def test_no_framework_is_imported_to_ask():
    code = "import sys, shared.measuring.device as d; d.cuda_device_count(); print({'torch', 'numpy', 'pycuda'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_hidden_devices_do_not_count():
    code = "import shared.measuring.device as d; print(d.cuda_device_count())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.stdout == "0\n"


@pytest.mark.requires_cuda
def test_the_driver_counts_what_nvidia_smi_lists():
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    assert cuda_device_count() == listed.count("GPU ")


def test_the_processor_has_a_name():
    assert cpu_name().strip()
