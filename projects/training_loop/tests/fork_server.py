"""Starts processes in a twentieth of a second: forks of one process that has imported torch, and nothing of the answer.

The server is a child of pytest, started by the first test that needs it, kept for the nested runs (through an environment
variable), and gone when pytest is. It has never run a kernel, so it has no threads that a fork would lose.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ADDRESS = "TRAINING_LOOP_FORK_SERVER"
LIMIT_S = 120


class Process:
    """A forked process that calls ``function(**arguments)`` of a module in this folder."""

    def __init__(self, function, arguments, environment=None):
        self._folder = tempfile.TemporaryDirectory()
        request = {
            "path": sys.path,
            "function": function,
            "arguments": arguments,
            "environment": environment or {},
            "output": f"{self._folder.name}/output.txt",
            "result": f"{self._folder.name}/result.json",
        }
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT_S)
        self._socket.connect(_address())
        self._stream = self._socket.makefile("rw")
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        self.pid = int(self._stream.readline())
        self._request = request
        self.returncode = None

    def wait(self):
        """Wait for the end and return the exit status, negative for a signal, as `subprocess` does."""
        if self.returncode is None:
            try:
                self.returncode = int(self._stream.readline())
            except TimeoutError:
                self.kill()
                raise AssertionError(
                    f"the process did not end in {LIMIT_S} s (do all ranks make the same calls?)\n{self.output}"
                ) from None
        return self.returncode

    def kill(self, signal_number=signal.SIGKILL):
        if self.returncode is None:
            os.kill(self.pid, signal_number)

    @property
    def output(self):
        """What it has printed so far."""
        path = Path(self._request["output"])
        return path.read_text(errors="replace") if path.exists() else ""

    def result(self):
        """Wait, and return what the function returned; what it raised becomes an AssertionError with its message."""
        status = self.wait()
        path = Path(self._request["result"])
        answer = json.loads(path.read_text()) if path.exists() else {}
        if answer.get("blank"):
            raise NotImplementedError
        assert status == 0 and "value" in answer, (
            f"{answer.get('error') or f'the process ended with {status}'}\n{self.output[-3000:]}"
        )
        return answer["value"]


def run(function, **arguments):
    """Call the function in a forked process and return its result."""
    return Process(function, arguments).result()


def run_ranks(n, function, environment=None, **arguments):
    """Call the function in `n` processes that can find each other, as torchrun would start them; return all results."""
    ranks = start_ranks(n, function, environment, **arguments)
    try:
        return [rank.result() for rank in ranks]
    finally:
        for rank in ranks:
            if rank.returncode is None:
                rank.kill()


def start_ranks(n, function, environment=None, **arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **(environment or {})}
    return [
        Process(function, arguments, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(n)
    ]


def _address():
    if ADDRESS not in os.environ:
        folder = tempfile.mkdtemp()
        # it ends when its standard input does, that is, when this process ends, however it ends
        server = subprocess.Popen(
            [sys.executable, __file__, f"{folder}/socket"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert server.stdout.readline(), "the fork server did not start"
        os.environ[ADDRESS] = f"{folder}/socket"
        signal_keeper = sys.modules.setdefault("_training_loop_fork_server", type(sys)("keeper"))
        signal_keeper.server = server  # a reference that outlives the modules of a nested run
    return os.environ[ADDRESS]


# --- the server itself ------------------------------------------------------------------------------------------------


def _serve(address):
    import select
    import warnings

    warnings.simplefilter("ignore")
    import rich.progress  # noqa: F401
    import torch
    import torch._dynamo  # noqa: F401  # the first optimizer would import it
    import torch.distributed.checkpoint
    import torch.distributed.fsdp
    import torch.nn.parallel
    import torch.utils.tensorboard  # noqa: F401

    torch.set_num_threads(1)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the nannies are nobody's concern
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            os.unlink(address)
            os.rmdir(os.path.dirname(address))
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
        os.environ.update(request["environment"])
        sys.path[:] = request["path"]
        import importlib

        module, name = request["function"].split(":")
        try:
            answer = {"value": getattr(importlib.import_module(module), name)(**request["arguments"])}
            status = 0
        except SystemExit as done:
            status, answer = int(done.code or 0), {"value": None}
        except NotImplementedError:
            answer = {"blank": True}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        Path(request["result"]).write_text(json.dumps(answer))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
