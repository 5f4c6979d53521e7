"""A CUDA device made of the CPU: an emulated driver and an nvcc stand-in, one level below the real PyCUDA.

    import cuda_emulator              # in this repository: from shared import cuda_emulator
    cuda_emulator.activate()          # before `import pycuda.driver`; does nothing where there is a GPU
    with cuda_emulator.settings(schedule="reverse"):
        host_function(...)            # raises pycuda.driver.Error with the .cu line of a race, an overrun ...
    with cuda_emulator.counting() as counters:
        host_function(...)
    counters.total("global load").bytes

README.md beside this file says what is checked, counted and refused.
"""

from .control import (
    SCHEDULES,
    Report,
    activate,
    activate_anyway,
    counting,
    is_active,
    real_driver,
    real_nvcc,
    reports,
    settings,
    warnings,
)
from .counters import Counters, Row

__all__ = [
    "SCHEDULES",
    "Counters",
    "Report",
    "Row",
    "activate",
    "activate_anyway",
    "counting",
    "is_active",
    "real_driver",
    "real_nvcc",
    "reports",
    "settings",
    "warnings",
]
