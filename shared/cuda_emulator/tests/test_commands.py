"""`python -m cuda_emulator run | check | profile`, as a user types them in the folder of her program."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulator import programs, toolchain
from cuda_emulator.text import UnsupportedError

PROGRAMS = Path(__file__).parent / "programs"
FOLDER = Path(__file__).parents[2]

ADD = """#include <cstdio>
#include <vector>
__global__ void add(const float* a, float* b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < LIMIT) b[i] += a[i];
}
int main(int argc, char** argv) {
    int n = argc > 1 ? atoi(argv[1]) : 100;
    std::vector<float> h(n, 1);
    float* d;
    cudaMalloc(&d, n * sizeof(float));
    cudaMemcpy(d, h.data(), n * sizeof(float), cudaMemcpyHostToDevice);
    add<<<(n + 63) / 64, 64>>>(d, d, n);
    if (cudaDeviceSynchronize() != cudaSuccess) return 3;
    cudaMemcpy(h.data(), d, n * sizeof(float), cudaMemcpyDeviceToHost);
    printf("%g\\n", h[n - 1]);
    return argc > 2;
}
"""
SCRIPT = """import sys
import numpy as np
import pycuda.autoprimaryctx
import pycuda.driver as driver
from pycuda.compiler import SourceModule

module = SourceModule(open("add.cu").read(), no_extern_c=True, options=["-DLIMIT=n"])
a, b = np.ones((2, 100), np.float32)
n = np.int32(100 + int(sys.argv[1]))
module.get_function("_Z3addPKfPfi")(driver.In(a), driver.InOut(b), n, block=(64, 1, 1), grid=(2, 1))
print(b.sum(), __name__, sys.argv)
"""


@pytest.fixture
def command(tmp_path):
    """Return a function that runs a command of the emulator in a folder with add.cu and script.py."""
    (tmp_path / "add.cu").write_text(ADD)
    (tmp_path / "script.py").write_text(SCRIPT)

    def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
        whole = [sys.executable, "-m", "cuda_emulator", *map(str, words)]
        return subprocess.run(whole, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return call


def test_run(command):
    done = command("run", "-DLIMIT=n", "add.cu")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


@pytest.mark.parametrize(("words", "status"), [((), 0), (("7",), 0), (("7", "x"), 1)])
def test_arguments_and_status_are_the_programs(command, words, status):
    done = command("run", "-DLIMIT=n", "--mode", "plain", "add.cu", *words)
    assert (done.returncode, done.stdout) == (status, "2\n")


def test_run_reports_a_bug_with_the_users_path(command):
    done = command("run", "-DLIMIT=n+1", "add.cu")
    assert done.returncode == 3  # the program has seen CUDA's code
    assert (
        "error: an illegal memory access was encountered: out-of-bounds global read of 4 bytes" in done.stderr
    )
    assert "\n    at add.cu:5 in add\n    block (1,0,0) thread (36,0,0) of kernel add\n" in done.stderr


def test_check(command):
    done = command("check", "-DLIMIT=n", "add.cu")
    assert done.returncode == 0
    assert done.stdout.startswith("add.cu: nothing found in 5 runs")
    done = command("check", "-DLIMIT=n+1", "add.cu")
    assert done.returncode == 1
    assert done.stdout.startswith("error: out of bounds at add.cu:5 (in checked forward, checked reverse, ")


def test_check_for_a_script_to_read(command):
    done = command("check", "--json", "-DLIMIT=n+1", "add.cu")
    result = json.loads(done.stdout)
    assert (done.returncode, result["ok"], result["file"]) == (1, False, "add.cu")
    assert [run["name"] for run in result["runs"]] == [
        *(f"checked {schedule}" for schedule in ("forward", "reverse", "random", "warp_greedy")), "plain"
    ]  # fmt: skip
    (finding,) = result["findings"]
    assert (finding["kind"], finding["file"], finding["line"]) == ("out of bounds", "add.cu", 5)
    assert len(finding["runs"]) == 4  # plain mode sees nothing


def test_what_cannot_be_run(command, tmp_path):
    (tmp_path / "bad.cu").write_text("\nint x = ;\n")
    (tmp_path / "wmma.cu").write_text("#include <cstdio>\n#include <mma.h>\nint main() {}\n")
    (tmp_path / "kernel.cu").write_text("__global__ void k() {}\n")
    (tmp_path / "parts.cu").write_text("int elsewhere(int);\nint main() { return elsewhere(1); }\n")
    for name, words in {
        "bad.cu": "bad.cu:2:9: error: expected primary-expression",
        "wmma.cu": "wmma.cu:2: error: not supported by the CPU emulator: <mma.h>, wmma tensor-core fragments",
        "kernel.cu": "error: this file has no main",
        "parts.cu": "error: elsewhere(int) is declared but not defined: a program is one .cu file here",
        "missing.cu": "No such file or directory: 'missing.cu'",
    }.items():
        for verb in ("run", "check"):
            done = command(verb, name)
            assert done.returncode == 2
            assert words in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ("add<<<3>>>(float[5000])", "grid, block and bytes must be whole numbers, got <<<3>>>"),
        ("add<<<1, 32>>>(float[80], float[], 80)", "cannot read the argument 'float[]'"),
        ("add(float[80])", "cannot read the launch"),
    ],
)
def test_launches_that_cannot_be_profiled(command, launch, words):
    done = command("profile", "-DLIMIT=n", "add.cu", "--launch", launch)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_profile(command):
    done = command(
        "profile", "-DLIMIT=n", "add.cu", "--launch", "_Z3addPKfPfi<<<2, 64>>>(float[100], float[100], 100)"
    )
    assert done.returncode == 0
    assert "glb load" in done.stdout
    done = command(
        "profile", "-DLIMIT=n+1", "add.cu", "--launch", "_Z3addPKfPfi<<<2, 64>>>(float[100], float[100], 100)"
    )
    assert "\n    at add.cu:5 in add\n" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="PyCUDA is not installed")
class TestScript:
    """A PyCUDA script, unchanged, whose .cu file has host code and a main."""

    def test_run(self, command):
        done = command("run", "script.py", "0")
        assert (done.returncode, done.stdout, done.stderr) == (0, "200.0 __main__ ['script.py', '0']\n", "")

    def test_bug(self, command):
        done = command("run", "script.py", "1")
        assert done.returncode == 1
        assert "\n    at add.cu:5 in add\n" in done.stderr

    def test_check(self, command):
        assert command("check", "script.py", "0").returncode == 0
        done = command("check", "script.py", "1")
        assert done.returncode == 1
        assert done.stdout.startswith("error: out of bounds at add.cu:5 (in checked forward, ")

    def test_schedules(self, command, tmp_path):
        """Those of `check` are a script's too."""
        script = (
            SCRIPT[: SCRIPT.index("module =")]
            + """
source = 'extern "C" __global__ void k(int* next, int* y) { y[atomicAdd(next, 1)] = threadIdx.x; }'
y = np.zeros(8, np.int32)
SourceModule(source, no_extern_c=True).get_function("k")(driver.In(np.zeros(1, np.int32)), driver.Out(y), block=(8, 1, 1))
print(*y, sep="\\n" if len(sys.argv) > 1 else " ")
"""
        )
        (tmp_path / "order.py").write_text(script)
        done = command("check", "order.py")
        assert done.returncode == 1
        assert "depends on the order of the threads\n    checked forward: 0 1 2 3 4 5 6 7" in done.stdout
        assert command("check", "order.py", "a line each").returncode == 0


@pytest.mark.parametrize("name", ["spellings.cu", "host_library.cu"])
def test_legal_programs(command, name):
    """Kernels however they are written, and a host that uses the standard library."""
    done = command("check", PROGRAMS / name)
    assert done.returncode == 0, done.stdout
    assert "nothing found" in done.stdout


HOST = """#include <cstdio>
int host_number = 5;
__device__ int device_number = 7;
__global__ void k(int* x) { x[0] = NUMBER; }
int main(int argc, char** argv) {
    int* d;
    cudaMalloc(&d, 4);
    k<<<1, 1>>>(d);
    if (argc > 1) printf("%d\\n", argc > 2 ? device_number : d[0]);
    return cudaDeviceSynchronize();
}
"""


@pytest.mark.parametrize(
    ("number", "words", "line", "message"),
    [
        ("host_number", [], 4, "read of host_number, a variable of the host's"),
        ("device_number", ["1"], 9, "host code reads device memory: byte 0 of an array of 4"),
        ("device_number", ["1", "2"], 9, "host code reads the device's variable device_number"),
    ],
)
def test_what_belongs_to_the_other_side(command, tmp_path, number, words, line, message):
    (tmp_path / "host.cu").write_text(HOST)
    done = command("run", f"-DNUMBER={number}", "host.cu", *words)
    assert done.returncode != 0
    assert message in done.stderr
    assert f"\n    at host.cu:{line} in " in done.stderr


def test_a_verdict_that_depends_on_the_order_is_an_error():
    runs = [
        programs.Run(f"checked {verdict}", 0, 0.1, f"{verdict}\n", "", []) for verdict in ("PASSED", "FAILED")
    ]
    found = programs.findings(runs)
    assert [(one.kind, one.severity) for one in found] == [("output", "error"), ("verdict", "warning")]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("sum 1.0000\n", "sum 1.0002\n", True),
        ("sum 1.0000\n", "sum 1.0200\n", False),
        ("took 3 ms\nok\n", "took 5 ms\nok\n", True),
        ("GPU time: 3.2\n", "GPU time: 9.1\n", True),
        ("Elapsed 0.5s\n", "Elapsed 0.7s\n", True),
        ("12 GB/s\n", "20 GB/s\n", True),
        ("s = 5\n", "s = 6\n", False),
        ("after 10 time steps: 42\n", "after 10 time steps: 43\n", False),
        ("PASSED\n", "FAILED\n", False),
        ("a\nb\n", "a\n", False),
        ("nan\n", "0\n", False),
        ("thread 0\nthread 1\n", "thread 1\nthread 0\n", True),
    ],
)
def test_outputs_that_differ(first, second, same):
    assert (programs.different_line(first, second) is None) == same


def test_a_program_that_always_prints_something_else(command, tmp_path):
    """Its own doing, not that of the schedules."""
    (tmp_path / "clock.cu").write_text("""#include <chrono>
#include <cstdio>
int main(int argc, char** argv) {
    printf("%s %lld\\n", argv[0], (long long)std::chrono::steady_clock::now().time_since_epoch().count() % 1000003);
}
""")
    done = command("check", "clock.cu")
    assert done.returncode == 0
    assert done.stdout.startswith("warning: output (in ")
    assert "the program prints something else in each run\n    checked forward: clock " in done.stdout
    assert "0 errors, 1 warning in 6 runs" in done.stdout


COPIES = """#include <cstdio>
int main() {
    int *a, *b, h = 3, r = 0;
    cudaMalloc(&a, 4), cudaMalloc(&b, 4);
    cudaMemcpy(a, &h, 4, cudaMemcpyHostToDevice);
    cudaMemcpy(b, a, 4, cudaMemcpyHostToDevice);
    cudaMemcpy(&r, b, 4, cudaMemcpyDefault);
    if (cudaGetLastError() != cudaSuccess) return 1;
    cudaMemcpy(&r, b, 4, cudaMemcpyHostToDevice);
    return cudaGetLastError() == cudaErrorInvalidValue && r == 3 ? 0 : 2;
}
"""


UNWRITTEN = """#include <cstdio>
__global__ void sum(const float* x, float* total, int n) {
    int i = threadIdx.x;
    if (i < n) atomicAdd(total, x[i]);
}
int main() {
    float h[100], *x, *total, result;
    for (float& value : h) value = 1;
    cudaMalloc(&x, sizeof h), cudaMalloc(&total, sizeof(float));
    cudaMemcpy(x, h, sizeof h, cudaMemcpyHostToDevice);
    sum<<<1, 128>>>(x, total, 100);
    cudaMemcpy(&result, total, sizeof(float), cudaMemcpyDeviceToHost);
    printf("%f\\n", result);
}
"""


def test_memory_that_nobody_has_written(command, tmp_path):
    (tmp_path / "unwritten.cu").write_text(UNWRITTEN)
    done = command("check", "unwritten.cu")
    assert done.returncode == 1
    assert "order of the threads, or on memory that nobody has written\n    checked forward: " in done.stdout


VARIABLES = """__constant__ float w = 1;
__device__ int a, f, x;
__device__ __managed__ int both;
__global__ void k() { a = f + (int)w + x; both = 7; }
int main() {
    const int one = 1;
    cudaMemcpyToSymbol(f, &one, sizeof one);
    cudaMemcpyToSymbol(x, &one, sizeof one);
    k<<<1, 1>>>();
    cudaDeviceSynchronize();
    int result = 0;
    cudaMemcpyFromSymbol(&result, a, sizeof result);
    return result == 3 && both == 7 ? 0 : 1;
}
"""


def test_variables_of_one_letter_and_managed_ones(command, tmp_path):
    """`w` mangled is wchar_t; a managed variable is the host's too."""
    (tmp_path / "variables.cu").write_text(VARIABLES)
    done = command("check", "-O3", "-arch=sm_80", "-Xcompiler", "-Wall", "variables.cu")
    assert (done.returncode, "nothing found" in done.stdout) == (0, True), done.stdout


def test_json_of_what_cannot_be_run(command):
    done = command("check", "--json", "missing.cu")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "[Errno 2] No such file or directory: 'missing.cu'"


def test_kinds_of_copy(command, tmp_path):
    """Undefined by CUDA's manual: between two arrays of the device drivers copy all the same, to the host they refuse."""
    (tmp_path / "copies.cu").write_text(COPIES)
    done = command("run", "copies.cu")
    warning, error = done.stderr.split("error: ")
    assert done.returncode == 1  # the program ends well, but an error was found
    assert warning.startswith(
        "warning: a copy from device to device is declared as another kind\n    at copies.cu:6 in main"
    )
    assert error.startswith("invalid argument: cudaMemcpy: the destination is the host's memory")
    assert "\n    at copies.cu:9 in main\n" in error


def test_launch_from_the_device_is_refused():
    source = "__global__ void child() {}\n__global__ void parent() {\n    child<<<1, 1>>>();\n}\nint main() { parent<<<1, 1>>>(); }\n"
    with pytest.raises(UnsupportedError, match=r"^k\.cu:3: error: .*launches from the device"):
        toolchain.compile_kernels(source, "k.cu")
