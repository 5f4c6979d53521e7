"""Compile the driver and the kernels with the host's C++ compiler, each once: the cache is keyed by content.

Only the standard library, and little of it: the nvcc stand-in runs this in a fresh process for every kernel file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .curand import curand_options
from .source import host_source, named, refuse_header
from .text import UnsupportedError

HERE = Path(__file__).resolve().parent
DRIVER = "libcuda.so.1"
HEADERS = [
    "-I",
    str(HERE / "include"),
    "-I",
    str(HERE / "include" / "empty"),
]  # empty: device.hpp has what they declare
TRANSLATION = (
    "source",
    "kernels",
    "host_calls",
    "text",
)  # what an object depends on beside the headers and the flags
# The compiler may not merge, vectorise or drop accesses: the hooks must see what the kernel asks for. -fno-tree-sra
# keeps a float4 whole. Local statics of templates must not be shared between modules (-fno-gnu-unique).
# Local statics get no locks (-fno-threadsafe-statics): the driver refuses those that would need one.
COMMON = ["-fno-strict-aliasing", "-fno-threadsafe-statics"]
EXACT_ACCESSES = {
    "gcc": [
        *("-fno-tree-loop-distribute-patterns", "-fno-tree-vectorize", "-fno-tree-slp-vectorize"),
        *("-fno-gnu-unique", "-fno-tree-sra", "-fno-store-merging"),
    ],
    "clang": ["-fno-vectorize", "-fno-slp-vectorize", "-fno-builtin"],
}
SANITIZE = "-fsanitize=thread,signed-integer-overflow,bounds,integer-divide-by-zero,float-cast-overflow"
HOOKS = [
    SANITIZE,
    "-fno-sanitize-recover=all",
    # An integer wraps, and driver/undefined.cpp tells data from an index; in host code a cast is the machine's.
    "-fsanitize-recover=signed-integer-overflow,float-cast-overflow",
    "-fsanitize-coverage=trace-pc,trace-cmp",
    "-DEMULATOR_CHECKED=1",
]
NO_FUNCTION_HOOKS = {
    "gcc": ["--param", "tsan-instrument-func-entry-exit=0", "--param", "tsan-distinguish-volatile=1"],
    "clang": ["-mllvm", "-tsan-instrument-func-entry-exit=0", "-mllvm", "-tsan-distinguish-volatile=1"],
}
HOT = (
    "launch",
    "barriers",
    "collectives",
    "memory",
    "races",
    "counters",
)  # these run per access; the rest compiles faster unoptimised


class ToolchainError(RuntimeError):
    """No C++ compiler, or the emulator itself does not compile."""


def cache_folder(name: str = "cuda_emulator") -> Path:
    """Return a folder for what is built once: under GROUNDWORK_CACHE, or in the user's cache directory.

    Raises
    ------
    ToolchainError
        It cannot be made.
    """
    given = os.environ.get("GROUNDWORK_CACHE")
    base = Path(given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundwork")
    folder = base / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolchainError(
            f"no place for what is built once: {error}; GROUNDWORK_CACHE names another"
        ) from error
    return folder


def compiler() -> str:
    """Return the host's C++ compiler: $CXX, g++ or clang++."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise ToolchainError("no C++ compiler: install g++ or clang++, or name one in $CXX")


def is_clang() -> bool:
    """Tell whether the compiler is clang, which spells a few flags differently."""
    return "clang" in Path(compiler()).name


def digest(*parts: str | bytes) -> str:
    """Return a key for the cache."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0")
    return total.hexdigest()[:20]


def _contents(folder: str) -> bytes:
    files = [path for path in sorted((HERE / folder).rglob("*")) if path.is_file()]
    return b"".join(path.name.encode() + path.read_bytes() for path in files)


def own_code() -> str:
    """Return a digest of what makes objects of kernel files."""
    return digest(
        _contents("include"), *((HERE / f"{name}.py").read_bytes() for name in TRANSLATION), compiler()
    )


def driver_path() -> Path:
    """Return the path of the emulated libcuda.so.1, compiling it on the first call (about ten seconds).

    CUDA_EMULATOR_FIBERS=ucontext selects the portable switch of threads, which arm64 always uses.
    """
    fibers = os.environ.get("CUDA_EMULATOR_FIBERS")
    if fibers not in (None, "", "ucontext"):
        raise ToolchainError(f"CUDA_EMULATOR_FIBERS must be ucontext, or not set, not {fibers!r}")
    portable = ["-DEMULATOR_UCONTEXT"] if fibers else []
    key = digest(_contents("driver"), (HERE / "include" / "abi.hpp").read_bytes(), compiler(), *portable)
    library = cache_folder() / key / DRIVER
    if not library.exists():
        _build_driver(library, portable)
    return library


def _build_driver(library: Path, flags: list[str]) -> None:
    """Compile driver/*.cpp, two at a time, and the stubs; the library appears under its name when complete."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        stubs = Path(work, "stubs.cpp")
        stubs.write_text(stub_source(), encoding="utf-8")
        common = [
            compiler(),
            "-std=c++17",
            "-w",
            "-fPIC",
            "-fvisibility=hidden",
            "-fno-strict-aliasing",
            *flags,
        ]
        waiting = [*sorted((HERE / "driver").glob("*.cpp")), stubs]
        objects = [Path(work, source.stem + ".o") for source in waiting]
        running: list[subprocess.Popen[str]] = []
        for source, target in zip(waiting, objects, strict=True):
            if len(running) >= 2:
                _finish(running.pop(0))
            level = "-O2" if source.stem in HOT else "-O0"
            command = [*common, level, "-c", str(source), "-o", str(target)]
            running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        for process in running:
            _finish(process)
        part = Path(work, DRIVER)
        link = [compiler(), "-shared", f"-Wl,-soname,{DRIVER}", "-o", str(part), *map(str, objects), "-ldl"]
        _finish(subprocess.Popen(link, stderr=subprocess.PIPE, text=True))
        _keep(part, library)


def _keep(built: Path, target: Path) -> None:
    """Put a file into the cache, whole: on disk before it has its name."""
    with open(built, "rb") as stream:
        os.fsync(stream.fileno())
    built.rename(target)


def _finish(process: subprocess.Popen[str]) -> None:
    message = process.communicate()[1]
    if process.returncode:
        raise ToolchainError(f"the emulator's driver does not compile:\n{message[-4000:]}")


def stub_source() -> str:
    """Return C++ for the functions of cuda.h that driver/api*.cpp do not have: each answers with its own name."""
    sources = [path.read_text(encoding="utf-8") for path in (HERE / "driver").glob("api*.cpp")]
    written = {name for source in sources for name in re.findall(r"\bAPI (cu\w+)\(", source)}
    names = (HERE / "driver" / "functions.txt").read_text(encoding="utf-8").split()
    lines = ['extern "C" int emulator_not_supported(const char*);']
    lines += [
        f'extern "C" __attribute__((visibility("default"))) int {name}() '
        f'{{ return emulator_not_supported("{name}"); }}'
        for name in names
        if name not in written
    ]
    return "\n".join(lines) + "\n"


def nvcc_folder() -> Path:
    """Return a folder that holds a command named nvcc, to be put first on PATH.

    The command imports this folder by its own name, from wherever it lies; the standard library comes first (-P, append),
    so that no file beside the folder can take its place.
    """
    code = f"import sys; sys.path.append({str(HERE.parent)!r}); "
    code += f"from {HERE.name}.nvcc import main; sys.exit(main())"
    command = f"#!/bin/sh\n# Stands in for NVIDIA's compiler: see {HERE.name}/nvcc.py.\n"
    command += f'exec {shlex.join([sys.executable, "-S", "-E", "-P", "-c", code])} "$@"\n'
    folder = cache_folder() / f"nvcc-{digest(command)}"
    folder.mkdir(exist_ok=True)
    if not (folder / "nvcc").exists():
        part = folder / f"part-{os.getpid()}"
        part.write_text(command)
        part.chmod(0o755)
        part.rename(folder / "nvcc")
    return folder


def compile_kernels(
    source: str, name: str, *, mode: str | None = None, options: tuple[str, ...] = ()
) -> Path:
    """Compile CUDA C++ to an object that the emulated driver loads; return its path in the cache.

    Parameters
    ----------
    source : the text of the .cu file
    name : what errors and reports call the file
    mode : "checked" (every access goes through the checks) or "plain" (fast); default: CUDA_EMULATOR_MODE, checked
    options : -I, -D and -std options

    Raises
    ------
    UnsupportedError
        the source uses what the emulator does not have
    CompileError
        the host's compiler refuses the source; the message is the compiler's, with .cu lines
    """
    link = [compiler(), "-shared", "-Wl,-Bsymbolic"]  # a kernel named conj is not libm's
    return _build(source, name, ".cubin", mode, link, options)


def compile_program(path: Path, *, mode: str | None = None, options: tuple[str, ...] = ()) -> Path:
    """Compile a .cu file with a main to a program that runs on the emulated driver; return its path in the cache.

    Raises as `compile_kernels` does.
    """
    driver = driver_path()
    link = [compiler(), str(driver), f"-Wl,-rpath,{driver.parent}", "-pthread"]
    folder = f"-I{path.resolve().parent}"
    source = path.read_text(encoding="utf-8")
    return _build(source, str(path), "", mode, link, (*options, folder))


def default_mode() -> str:
    """Return the mode of CUDA_EMULATOR_MODE, or "checked"."""
    return os.environ.get("CUDA_EMULATOR_MODE") or "checked"


def _build(
    source: str,
    name: str,
    suffix: str,
    mode: str | None,
    link: list[str],
    options: tuple[str, ...],
) -> Path:
    text, included = named(source, name), _included(options, source)
    everything = source.encode() + b"".join(included)
    lockstep = b"volatile" in everything and b"__shared__" in everything
    flags = _kernel_flags(mode or default_mode(), lockstep)
    key = digest(text, *flags, *link, *options, own_code(), *included)
    target = cache_folder() / f"{key}{suffix}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as work:
            linked = _compile_and_link(text, Path(work), flags, link, options, program=not suffix)
            _keep(linked, target)
    return target


def _compile_and_link(
    text: str, work: Path, flags: list[str], link: list[str], options: tuple[str, ...], *, program: bool
) -> Path:
    """Preprocess, translate, compile, then link in a step of its own: without -fsanitize, whose library must not come along.

    The emulator's functions stay undefined; the driver has them, and activate() loads it for all to see.
    """
    header = HERE / "include" / "device.hpp"
    here = f"-ffile-prefix-map={os.getcwd()}=."  # PyCUDA compiles in a new folder each time
    flags = [here, *flags]
    preprocess = [compiler(), *flags, *options, *HEADERS, "-include", str(header), "-E", "-x", "c++", "-"]
    preprocessed = _run(preprocess, text)
    command = [compiler(), *flags, "-c", "-x", "c++-cpp-output", "-"]
    if not is_clang():
        # The part that is the same for every file is compiled already.
        _, marker, own = preprocessed.partition('\n# 1 "<stdin>"\n')
        preprocessed = f'#pragma GCC pch_preprocess "{_precompiled(header, flags[1:])}"{marker}{own}'
        command = [compiler(), *flags, "-fpreprocessed", "-fpch-preprocess", "-c", "-x", "c++", "-"]
    object_file, linked = work / "object", work / "linked"
    checked = "-DEMULATOR_CHECKED=1" in flags
    for inline in (True, False):
        host = host_source(
            preprocessed,
            lambda name: name.startswith(str(header.parent)),
            checked=checked,
            program=program,
            inline=inline,
        )
        try:
            _run([*command, "-o", str(object_file)], host)
            break
        except CompileError as error:
            # A __forceinline__ function that is passed as an argument cannot be inlined where it is called.
            if "always_inline" not in str(error) or not inline:
                raise
    _run([link[0], "-o", str(linked), str(object_file), *link[1:]])
    return linked


def _precompiled(header: Path, flags: list[str]) -> Path:
    """Return device.hpp in g++'s own form, which takes a tenth of a second to load and five times that to make."""
    target = cache_folder() / f"{digest(_contents('include'), compiler(), *flags)}.gch"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as work:
            part = Path(work, "part.gch")
            _run([compiler(), *flags, "-x", "c++-header", str(header), "-o", str(part)])
            _keep(part, target)
    return target


def _run(command: list[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        refuse_header(done.stderr)
        missing = re.search(r"undefined reference to [`'](.*)'", done.stderr)
        if missing and missing[1] == "main":
            raise CompileError("error: this file has no main: nothing to run (profile runs a kernel of it)")
        if missing:
            raise CompileError(
                f"error: {missing[1]} is declared but not defined: a program is one .cu file here, so include the file that defines it"
            )
        raise CompileError(done.stderr)
    return done.stdout


class CompileError(RuntimeError):
    """The host's compiler refuses a kernel file."""


def _kernel_flags(mode: str, lockstep: bool) -> list[str]:
    if mode not in ("checked", "plain"):
        raise ToolchainError(f"CUDA_EMULATOR_MODE must be checked or plain, not {mode!r}")
    flags = ["-std=c++17", "-w", "-fPIC", "-fvisibility=hidden", "-g1", "-gdwarf-4"]
    flags.append(
        f"-ffile-prefix-map={HERE / 'include'}=emulator-include"
    )  # how driver/report.cpp knows our own lines
    flags += [*curand_options(), *COMMON, *EXACT_ACCESSES["clang" if is_clang() else "gcc"]]
    hook_options = NO_FUNCTION_HOOKS["clang" if is_clang() else "gcc"]
    if mode == "plain":
        flags += ["-O2", "-fwrapv"]  # overflow wraps, as on a GPU
        # Warps that run in lockstep (driver/memory.cpp) need the hooks of volatile accesses.
        return [*flags, "-fsanitize=thread", *hook_options] if lockstep else flags
    return [*flags, "-O1", *HOOKS, *hook_options]


def _included(options: tuple[str, ...], text: str, seen: frozenset[Path] = frozenset()) -> list[bytes]:
    """Return the contents of the user's own headers, which belong to the cache's key."""
    folders = [Path(option[2:]) for option in options if option.startswith("-I")]
    names = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, flags=re.MULTILINE)
    found = []
    for name in names:
        for header in [folder / name for folder in folders if (folder / name).is_file()][:1]:
            content = header.read_bytes()
            found.append(content)
            if header not in seen:
                within = (*options, f"-I{header.parent}")
                found += _included(within, content.decode(errors="replace"), seen | {header})
    return found


__all__ = [
    "CompileError",
    "ToolchainError",
    "UnsupportedError",
    "compile_kernels",
    "compile_program",
    "default_mode",
    "driver_path",
    "nvcc_folder",
]
