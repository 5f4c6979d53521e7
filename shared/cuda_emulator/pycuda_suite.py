"""Run PyCUDA's own tests on the emulator, and write the count into README.md: ``python -m cuda_emulator.pycuda_suite``.

It needs PyCUDA from pycuda_wheel.py, pytest, mako and nvidia-curand, and ten minutes.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from .measure import README, fill
from .pycuda_wheel import VERSION
from .toolchain import HERE

MARKS = "<!-- suite: python -m cuda_emulator.pycuda_suite -->", "<!-- end of suite -->"
# Arrays of 4 to 16 GB take more than a minute each, and as much memory.
TOO_LARGE = ("curand_wrappers_8gb", "curand_wrappers_16gb", "big_array_elementwise", "big_array_reduction", "big_array_scan")  # fmt: skip
CAUSES = {
    "cuLinkCreate": "link device code (`DynamicSourceModule`), which is refused",
    "uninitialised shared memory": "read shared memory that no one has written and drop the value (`pycuda.scan`), which is reported",
}
RUN = """import sys
sys.path.append({parent!r})
from {name} import activate_anyway
activate_anyway(announce=False)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def results(folder: Path) -> list[ElementTree.Element]:
    """Download PyCUDA's source and run its tests; return the test cases of pytest's report."""
    download = f"pip download -q --no-deps --no-binary=pycuda pycuda=={VERSION} -d"
    subprocess.run([sys.executable, "-m", *download.split(), str(folder)], check=True)
    with tarfile.open(folder / f"pycuda-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    tests, report = folder / f"pycuda-{VERSION}" / "test", folder / "report.xml"
    (tests / "pytest.ini").write_text("[pytest]\nmarkers = cuda: needs a device\n")
    choice = " and ".join(f"not {name}" for name in TOO_LARGE)
    code = RUN.format(parent=str(HERE.parent), name=HERE.name)
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-k", choice]
    subprocess.run([sys.executable, "-c", code, *options, str(tests)], cwd=tests)
    return list(ElementTree.parse(report).iter("testcase"))


def table(cases: list[ElementTree.Element]) -> list[str]:
    """Return the counts in words, with the cause of each test that does not pass."""
    counts: Counter[str] = Counter()
    for case in cases:
        failed = [part for tag in ("failure", "error") for part in case.findall(tag)]
        text = "".join(f"{part.get('message')} {part.text}" for part in failed)
        known = [cause for cause in CAUSES if cause in text]
        if failed:
            counts[CAUSES[known[0]] if known else f"fail for another reason ({case.get('name')})"] += 1
        elif case.find("skipped") is not None:
            counts["PyCUDA itself skips or expects to fail"] += 1
        else:
            counts["pass"] += 1
    counts["want arrays of 4 to 16 GB, which takes too long here"] = len(TOO_LARGE)
    rows = [f"| {cause} | {count} |" for cause, count in counts.most_common()]
    return [
        f"PyCUDA {VERSION}'s own tests, {sum(counts.values())} of them:",
        "",
        "| tests that | |",
        "|---|---|",
        *rows,
    ]


def main() -> None:
    """Run the suite and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        lines = table(results(Path(folder)))
    fill(README, MARKS, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
