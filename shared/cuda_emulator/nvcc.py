"""Stand in for nvcc: ``nvcc --cubin [options] kernel.cu`` writes kernel.cubin, an object that the emulated driver loads.

PyCUDA finds it on PATH. Options that only steer NVIDIA's compiler are accepted and ignored.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import toolchain
from .curand import curand_options

# Options that take a value as the next word and mean nothing to a CPU.
WITH_VALUE = (
    *("-arch", "--gpu-architecture", "-code", "--gpu-code", "-gencode", "--generate-code", "-maxrregcount"),
    *(
        "--maxrregcount",
        "-Xptxas",
        "--ptxas-options",
        "-Xcompiler",
        "--compiler-options",
        "-ccbin",
        "-Xlinker",
    ),
)
IGNORED = (
    *(
        "-arch=",
        "--gpu-architecture=",
        "-code=",
        "-gencode=",
        "-maxrregcount=",
        "--maxrregcount=",
        "--ptxas-options=",
    ),
    *(
        "-Xptxas=",
        "--use_fast_math",
        "-use_fast_math",
        "-lineinfo",
        "--generate-line-info",
        "-O",
        "-G",
        "-g",
        "-m64",
    ),
    *(
        "--keep",
        "-w",
        "--resource-usage",
        "--expt-relaxed-constexpr",
        "--extended-lambda",
        "--std=c++",
        "-fmad=",
    ),
    *("--fmad=", "--ftz=", "--prec-div=", "--prec-sqrt=", "-diag-suppress", "--restrict", "-restrict", "-P"),
)
VERSION = "nvcc: the CPU emulator's stand-in for the CUDA compiler"


def main() -> int:
    """Run one command line; return the exit status."""
    arguments = sys.argv[1:]
    if "--version" in arguments or "-V" in arguments:
        # What others keep under this version depends on the emulator's own code too.
        kind = f"{toolchain.default_mode()}, {toolchain.own_code()}"
        print(f"{VERSION}\nCuda compilation tools, release 13.0, V13.0.0 ({kind})")
        return 0
    try:
        return _compile(arguments)
    except (toolchain.CompileError, toolchain.ToolchainError, toolchain.UnsupportedError) as error:
        print(error, file=sys.stderr)
        return 1


def _compile(arguments: list[str]) -> int:
    options, files, target, action = [], [], "", ""
    words = iter(arguments)
    for word in words:
        if word in ("--cubin", "-cubin", "--fatbin", "-fatbin", "--ptx", "-ptx", "--preprocess", "-E"):
            action = word.lstrip("-")
        elif word in ("-I", "-D", "--include-path", "--define-macro", "-std"):
            flag = {"--include-path": "-I", "--define-macro": "-D", "-std": "-std="}.get(word, word)
            options.append(flag + next(words))
        elif word in ("-o", "--output-file"):
            target = next(words)
        elif word in WITH_VALUE:
            next(words)
        elif word.startswith(("-I", "-D", "-std=")):
            options.append(word)
        elif word.startswith("-") and not word.startswith(IGNORED):
            raise toolchain.ToolchainError(f"the emulator's nvcc does not know the option {word}")
        elif not word.startswith("-"):
            files.append(Path(word))
    if len(files) != 1:
        raise toolchain.ToolchainError(
            f"the emulator's nvcc compiles one .cu file at a time, not {len(files)}"
        )
    source = files[0].read_text(encoding="utf-8")
    if action in ("preprocess", "E"):
        return _preprocess(source, options)
    if action not in ("cubin", "fatbin"):
        raise toolchain.ToolchainError(f"the emulator's nvcc makes cubins, not {action or 'programs'}")
    built = toolchain.compile_kernels(source, file_name(source, files[0]), options=tuple(options))
    Path(target or files[0].with_suffix(f".{action}").name).write_bytes(built.read_bytes())
    return 0


def _preprocess(source: str, options: list[str]) -> int:
    """Answer PyCUDA, which hashes the preprocessed source as the key of its own cache."""
    command = [
        toolchain.compiler(),
        "-std=c++17",
        "-E",
        "-P",
        *options,
        *curand_options(),
        *toolchain.HEADERS,
    ]
    command += ["-x", "c++", "-"]
    return subprocess.run(command, input=source, text=True).returncode


def file_name(source: str, path: Path) -> str:
    """Return the .cu file's own name.

    PyCUDA passes a text, which it writes to kernel.cu; the folders in CUDA_EMULATOR_KERNELS are searched for the file
    that has this text.
    """
    text = source.removeprefix('extern "C" {\n').strip()
    for folder in filter(None, os.environ.get("CUDA_EMULATOR_KERNELS", "").split(os.pathsep)):
        for candidate in sorted(Path(folder).glob("*.cu")):
            if candidate.read_text(encoding="utf-8").strip() in (text, text.removesuffix("}").strip()):
                root = os.environ.get("CUDA_EMULATOR_ROOT")  # of a script: its user's own path
                return (
                    os.path.relpath(candidate, root) if root else f"{candidate.parent.name}/{candidate.name}"
                )
    return path.name


if __name__ == "__main__":
    sys.exit(main())
