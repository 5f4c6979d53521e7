"""Processes for the tests: `multiprocessing`'s fork server where the system has one, else a new Python for each.

The server has imported torch, and nothing of the answer, so a process starts in a twentieth of a second. It serves the nested
runs of the judge too, and ends when pytest does.
"""

import contextlib
import faulthandler
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from multiprocessing.connection import wait
from pathlib import Path

import pytest

LIMIT_S = 40
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT = multiprocessing.get_context(METHOD)
if METHOD == "forkserver":
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload(
        [
            "pytest",
            "rich.progress",
            "torch._dynamo",  # the first optimizer would import it
            "torch.distributed.checkpoint",
            "torch.distributed.fsdp",
            "torch.nn.parallel",
            "torch.utils.tensorboard",
        ]
    )
    if multiprocessing.current_process().name == "MainProcess":
        forkserver.ensure_running()  # ready when the first test needs it

_open = []  # the processes that nobody has waited for yet


class Process:
    """A process that calls ``function(**arguments)``, a "module:name" of this folder.

    After `limit_s` seconds it ends by itself and prints where it was.
    """

    def __init__(self, function, arguments, environment=None, limit_s=LIMIT_S):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._limit_s, self._text, self._answer, self.returncode = limit_s, None, {}, None
        reader, self._stop = CONTEXT.Pipe(duplex=False)
        call = (self._folder.name, function, arguments, environment or {}, limit_s, reader)
        self._process = CONTEXT.Process(target=_work, args=call)
        self._process.start()
        reader.close()
        _open.append(self)

    def wait(self, limit_s=None):
        """Wait for the end and return the exit status, negative for a signal, as `subprocess` does."""
        if self.returncode is None:
            self._process.join(limit_s or self._limit_s + 5)
            late = self._process.is_alive()
            self._process.kill()
            self._process.join()
            self._close()
            if late or (self.returncode and not self._answer and "Timeout (" in self.output):
                problem = f"the process did not end in {limit_s or self._limit_s} s (do all ranks make the same calls? does the process group outlive DDP?)"
                raise AssertionError(f"{problem}\n{self.output}")
        return self.returncode

    def _close(self):
        self._text, self.returncode = self.output, self._process.exitcode
        result = Path(self._folder.name, "result.json")
        if result.exists():
            self._answer = json.loads(result.read_text(encoding="utf-8"))
        self._stop.close()
        self._folder.cleanup()
        _open.remove(self)

    @property
    def is_running(self):
        if self.returncode is None and not self._process.is_alive():
            self.wait()
        return self.returncode is None

    @property
    def sentinel(self):
        """What `multiprocessing.connection.wait` waits for."""
        return self._process.sentinel

    def kill(self):
        """End it at once, if it still runs."""
        if self.is_running:
            self._process.kill()

    def terminate(self):
        """Let it send SIGTERM to itself: no other process could on Windows."""
        self._stop.send_bytes(b"SIGTERM")

    @property
    def output(self):
        """What it has printed so far."""
        if self._text is None:
            path = Path(self._folder.name, "output.txt")
            return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return self._text

    def answer(self, limit_s=None):
        """Wait; what the function raised becomes an AssertionError with its message."""
        self.wait(limit_s)
        if self._answer.get("blank"):
            raise NotImplementedError
        if "error" in self._answer:
            raise AssertionError(f"{self._answer['error']}\n{self.output[-3000:]}")
        return self._answer

    def result(self, limit_s=None):
        """Wait, and return what the function returned."""
        answer = self.answer(limit_s)
        assert "value" in answer, f"the process ended with {self.returncode}\n{self.output[-3000:]}"
        return answer["value"]


@pytest.fixture(autouse=True)
def nothing_stays():
    """End what a failed test left running; for the test modules that import this."""
    yield
    for process in list(_open):
        process._process.kill()
        process._process.join()
        process._close()


def run(function, **arguments):
    """Call the function in a process of its own and return its result."""
    return Process(function, arguments).result()


def run_ranks(n, function, environment=None, **arguments):
    """Call the function in `n` processes that can find each other, as torchrun would start them; return all results."""
    ranks = start_ranks(n, function, environment, **arguments)
    try:
        while running := [rank for rank in ranks if rank.is_running]:
            for rank in ranks:
                if rank.returncode:  # the others would wait for it
                    rank.result()
            wait([rank.sentinel for rank in running])
        return [rank.result() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def start_ranks(n, function, environment=None, **arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **(environment or {}),
    }
    return [
        Process(function, arguments, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(n)
    ]


# --- in the new process -------------------------------------------------------------------------------------


def _work(folder, function, arguments, environment, limit_s, stop):
    with open(Path(folder, "output.txt"), "ab") as output:
        for stream in (sys.stdout, sys.stderr):  # what C++ prints, too
            stream.flush()
            os.dup2(output.fileno(), stream.fileno())
            stream.reconfigure(encoding="utf-8")
    faulthandler.dump_traceback_later(limit_s, exit=True)
    threading.Thread(target=_obey, args=[stop], daemon=True).start()
    os.environ.update(environment)
    module, name = function.split(":")
    answer = {}
    try:
        answer["value"] = getattr(importlib.import_module(module), name)(**arguments)
    except SystemExit:
        answer["value"] = None
        raise
    except NotImplementedError as error:
        answer.update({"error": f"NotImplementedError: {error}"} if str(error) else {"blank": True})
        raise
    except BaseException as error:
        answer["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        half = Path(folder, "result.tmp")  # it may be killed while it writes
        half.write_text(json.dumps(answer), encoding="utf-8")
        half.replace(Path(folder, "result.json"))


def _obey(stop):
    with contextlib.suppress(EOFError):  # nobody asked
        stop.recv_bytes()
        signal.raise_signal(signal.SIGTERM)
