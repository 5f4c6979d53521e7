"""The limit of a test where the system has no alarm signal, as on Windows."""

import subprocess
import sys

import pytest

from shared.projects import ROOT
from shared.tests.conftest import REFERENCE

NO_ALARM = """
import signal, sys
del signal.SIGALRM
signal.signal(signal.SIGINT, getattr(signal, sys.argv.pop()))
sys.path.insert(0, sys.argv.pop())
import pytest
pytest.main(sys.argv[1:])
"""
ENDLESS = "    while True:\n        pass"


@pytest.mark.parametrize("on_interrupt", ["default_int_handler", "SIG_IGN"])
def test_an_endless_loop_ends_without_an_alarm(mini, tmp_path, on_interrupt):
    """It fails, with the line, and the tests after it run; also in the background, where a shell has Ctrl-C ignored."""
    answer = tmp_path / "answer"
    answer.mkdir()
    (answer / "mini.py").write_text(REFERENCE.replace("    return x * factor", ENDLESS), encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        NO_ALARM,
        "tests",
        f"--practice={answer}",
        "--timeout=0.5",
        str(ROOT),
        on_interrupt,
    ]
    done = subprocess.run(
        command, cwd=mini.folder, capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert "Timeout (>0.5s) from pytest-timeout" in done.stdout, done.stdout + done.stderr
    assert "✗ scale 0/1" in done.stdout
    assert "✓ norm 1/1" in done.stdout
