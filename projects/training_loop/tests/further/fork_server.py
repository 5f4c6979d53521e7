"""Starts processes in a twentieth of a second: forks of one process that has imported torch, and nothing of the answer.

The server is a child of pytest, started when a test module imports this one, so that it is ready when the first test needs
it, kept for the nested runs (through an environment variable), and gone when pytest is. It has never run a kernel, so it has no threads that a fork would lose.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest

ADDRESS = "TRAINING_LOOP_FORK_SERVER"
LIMIT_S = 40

_open = []  # the processes that nobody has waited for yet


class Process:
    """A forked process that calls ``function(**arguments)`` of a module in this folder."""

    def __init__(self, function, arguments, environment=None):
        self._folder = Path(tempfile.mkdtemp())
        self._text, self._answer, self.returncode = None, {}, None
        request = {
            "path": sys.path,
            "function": function,
            "arguments": arguments,
            "environment": environment or {},
            "output": str(self._folder / "output.txt"),
            "result": str(self._folder / "result.json"),
        }
        self._socket = socket.socket(socket.AF_UNIX)
        self.pid = 0
        _open.append(self)
        _connect(self._socket)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        self.pid = self._read_number()

    def _read_number(self):
        """Read a line byte by byte: a buffer would swallow what `is_running` looks for."""
        text = b""
        while not text.endswith(b"\n"):
            text += self._socket.recv(1) or b"-1\n"
        return int(text)

    def wait(self, limit_s=LIMIT_S):
        """Wait for the end and return the exit status, negative for a signal, as `subprocess` does."""
        if self.returncode is None:
            problem = None
            self._socket.settimeout(limit_s)
            try:
                self.returncode = self._read_number()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    os.kill(self.pid, signal.SIGUSR1)  # where is it? faulthandler prints the stack
                    time.sleep(0.5)
                    os.kill(self.pid, signal.SIGKILL)
                self.returncode = -signal.SIGKILL
                problem = f"the process did not end in {limit_s} s (do all ranks make the same calls? does the process group outlive DDP?)"
            self._close()
            if problem:
                raise AssertionError(f"{problem}\n{self.output}") from None
        return self.returncode

    def _close(self):
        self._text = self.output
        result = self._folder / "result.json"
        if result.exists():
            self._answer = json.loads(result.read_text())
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # a process that was just killed may still write
        _open.remove(self)

    @property
    def is_running(self):
        if self.returncode is None and select.select([self._socket], [], [], 0)[0]:
            self.wait()
        return self.returncode is None

    def kill(self, signal_number=signal.SIGKILL):
        """Send a signal, if it still runs."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):  # it ended between the two lines
                os.kill(self.pid, signal_number)

    @property
    def output(self):
        """What it has printed so far."""
        path = self._folder / "output.txt"
        if self._text is None:
            return path.read_text(errors="replace") if path.exists() else ""
        return self._text

    def answer(self, limit_s=LIMIT_S):
        """Wait; what the function raised becomes an AssertionError with its message."""
        self.wait(limit_s)
        if self._answer.get("blank"):
            raise NotImplementedError
        if "error" in self._answer:
            raise AssertionError(f"{self._answer['error']}\n{self.output[-3000:]}")
        return self._answer

    def result(self, limit_s=LIMIT_S):
        """Wait, and return what the function returned."""
        answer = self.answer(limit_s)
        assert "value" in answer, f"the process ended with {self.returncode}\n{self.output[-3000:]}"
        return answer["value"]


@pytest.fixture(autouse=True)
def nothing_stays():
    """End what a failed test left running, and close its sockets; for the test modules that import this."""
    yield
    for process in list(_open):
        if process.pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        process._close()


def run(function, **arguments):
    """Call the function in a forked process and return its result."""
    return Process(function, arguments).result()


def run_ranks(n, function, environment=None, **arguments):
    """Call the function in `n` processes that can find each other, as torchrun would start them; return all results."""
    ranks = start_ranks(n, function, environment, **arguments)
    try:
        deadline = time.monotonic() + LIMIT_S
        while any([rank.is_running for rank in ranks]) and time.monotonic() < deadline:
            for rank in ranks:
                if rank.returncode:  # the others would wait for it
                    rank.result()
            time.sleep(0.005)
        return [rank.result(limit_s=1) for rank in ranks]
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


def _connect(client, limit_s=120):
    """Connect to the server; it may still be starting."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return client.connect(os.environ[ADDRESS])
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < deadline, "the fork server did not start"
            time.sleep(0.02)


def _start():
    folder = tempfile.mkdtemp()
    # it ends when its standard input does, that is, when this process ends, however it ends
    server = subprocess.Popen(
        [sys.executable, __file__, f"{folder}/socket"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    os.environ[ADDRESS] = f"{folder}/socket"
    if sys.dont_write_bytecode:  # a nested run would rewrite the assertions of all test modules again
        sys.dont_write_bytecode, sys.pycache_prefix = False, f"{folder}/bytecode"

    def stop():
        server.stdin.close()
        server.wait()

    atexit.register(stop)  # keeps the server for the nested runs, whose modules come and go


# --- the server itself ------------------------------------------------------------------------------------------------


def _serve(address):
    import warnings

    warnings.simplefilter("ignore")
    import rich.progress  # noqa: F401
    import torch
    import torch._dynamo  # the first optimizer would import it
    import torch.distributed.checkpoint
    import torch.distributed.fsdp
    import torch.nn.parallel
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    # what one fork has compiled of the answer and of these tests, the next one reads
    sys.dont_write_bytecode, sys.pycache_prefix = False, f"{os.path.dirname(address)}/bytecode"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the nannies are nobody's concern
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            shutil.rmtree(os.path.dirname(address), ignore_errors=True)
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _nanny(connection)
        connection.close()


def _nanny(connection):
    """Start one process, tell its number, wait, tell its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stream = connection.makefile("rw")
    request = json.loads(stream.readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _work(request)
    stream.write(f"{pid}\n")
    stream.flush()
    _, status = os.waitpid(pid, 0)
    try:
        stream.write(f"{os.waitstatus_to_exitcode(status)}\n")
        stream.flush()
    finally:
        os._exit(0)


def _work(request):
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.register(signal.SIGUSR1, file=2)
        os.environ.update(request["environment"])
        sys.path[:] = request["path"]
        import importlib

        module, name = request["function"].split(":")
        try:
            answer = {"value": getattr(importlib.import_module(module), name)(**request["arguments"])}
            status = 0
        except SystemExit as done:
            status, answer = int(done.code or 0), {"value": None}
        except NotImplementedError as error:
            answer = {"error": f"NotImplementedError: {error}"} if str(error) else {"blank": True}
            traceback.print_exc()
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        half = Path(request["result"] + ".tmp")  # it may be killed while it writes
        half.write_text(json.dumps(answer))
        half.replace(request["result"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
elif ADDRESS not in os.environ:
    _start()
