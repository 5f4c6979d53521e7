"""CUDA programs without a GPU: ``python -m cuda_emulator run my.cu``, ``check my.cu``, ``profile my_kernels.cu``."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import control, programs, toolchain
from .launch import DriverError, Module
from .nvcc import IGNORED, WITH_VALUE
from .text import UnsupportedError, split
from .toolchain import CompileError, ToolchainError

HELP = """\
no launch to profile: write one into the file, or give one with --launch:
    // profile: kernel<<<grid, block>>>(float[1024], 1024)
    // profile: kernel<<<(4, 2), (16, 16), shared bytes>>>(float[64, 64], half[64], 64, 2.5f, 64ll)
arrays of float, double and half hold random numbers, others 0; 64 is an int, 64ll a long long, 2.5f a float, 2.5 a double"""
LAUNCH = re.compile(r"\s*(\w+)\s*<<<(.*)>>>\s*\((.*)\)\s*$")
TYPES = {
    **{"float": np.float32, "double": np.float64, "half": np.float16, "__half": np.float16, "int": np.int32},
    **{"unsigned": np.uint32, "long long": np.int64, "char": np.int8, "short": np.int16, "bf16": np.uint16},
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="cuda_emulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a .cu file with a main, or a PyCUDA script")
    run.add_argument(
        "--mode", choices=("checked", "plain"), default=toolchain.default_mode(), help="plain is faster"
    )
    run.add_argument("--schedule", choices=control.SCHEDULES, help="which thread goes first")
    check = commands.add_parser(
        "check", help="run it under every schedule and in plain mode; status 1 if there is an error"
    )
    check.add_argument("--json", action="store_true", help="print the findings for a script to read")
    profile = commands.add_parser("profile", help="print the source with the counts of each line")
    profile.add_argument("--launch", action="append", help='such as "kernel<<<4, 256>>>(float[1024], 1024)"')
    for command in (run, check, profile):
        command.add_argument(
            "-D", dest="defines", action="append", default=[], help="a macro, such as TILE=32"
        )
        command.add_argument("-I", dest="folders", action="append", default=[], help="a folder with headers")
        command.add_argument(
            "file", type=Path, help="a .cu file" + (", or a .py file" if command is not profile else "")
        )
    for command in (run, check):
        command.add_argument("--seed", type=int, help="of the random schedules")
        command.add_argument("--timeout", type=float, help="seconds after which a launch is stopped (60)")
        command.add_argument("arguments", nargs=argparse.REMAINDER, help="of the program")
    arguments = parser.parse_args(without_nvcc_options(sys.argv[1:]))
    try:
        sys.exit(execute(arguments))
    except (CompileError, DriverError, ToolchainError, UnsupportedError, ValueError, OSError) as error:
        if getattr(arguments, "json", False):
            print(json.dumps({"file": str(arguments.file), "ok": False, "error": str(error)}, indent=2))
        print(error, file=sys.stderr)
        sys.exit(2)


def without_nvcc_options(words: list[str]) -> list[str]:
    """Return a command line without what steers NVIDIA's compiler only (-O3, -arch=sm_80), up to the name of the file."""
    kept, rest = [], iter(words)
    for word in rest:
        if word in WITH_VALUE:
            next(rest, None)
        elif not word.startswith(IGNORED):
            kept.append(word)
        if word.endswith((".cu", ".py")):
            break
    return [*kept, *rest]


def execute(arguments: argparse.Namespace) -> int:
    """Do what the command line says; return the exit status."""
    options = (
        *(f"-D{define}" for define in arguments.defines),
        *(f"-I{folder}" for folder in arguments.folders),
    )
    path = arguments.file
    if arguments.command == "profile":
        print(profile_file(path, arguments.launch, list(options)))
        return 0
    for name in ("schedule", "seed", "timeout"):
        if getattr(arguments, name, None) is not None:
            os.environ[f"CUDA_EMULATOR_{name.upper()}"] = str(getattr(arguments, name))
    path.open().close()  # a file that is not there is said so
    if arguments.command == "run":
        return programs.run(path, arguments.arguments, mode=arguments.mode, options=options)
    runs, found = programs.check(path, arguments.arguments, options=options)
    print((programs.as_json if arguments.json else programs.summary)(path, runs, found))
    return int(any(one.severity == "error" for one in found))


def profile_file(path: Path, launches: list[str] | None, options: list[str]) -> str:
    """Run the launches of a file, each counted on its own; return the annotated source and the totals."""
    source = path.read_text(encoding="utf-8")
    launches = launches or re.findall(r"^\s*//\s*profile:\s*(.*)$", source, flags=re.MULTILINE)
    if not launches:
        raise ValueError(HELP)
    control.activate_anyway(path.parent, announce=False)
    module = Module(path, name=str(path), options=tuple(options))
    pages = []
    for launch in launches:
        kernel, grid, block, shared, arguments = parse_launch(launch)
        with control.counting() as counters:
            module.launch(kernel, grid, block, *arguments, shared=shared)
        pages.append(f"{path}: {launch.strip()}\n{counters.annotate(path)}\n\n{counters.summary()}\n")
    return "\n".join(pages)


def parse_launch(text: str) -> tuple[str, Any, Any, int, list[Any]]:
    """Read ``kernel<<<grid, block, shared>>>(arguments)``; float arrays are filled with random numbers."""
    match = LAUNCH.match(text)
    if not match:
        raise ValueError(f"cannot read the launch {text.strip()!r}\n{HELP}")
    kernel, configuration, arguments = match.groups()
    parts = split(configuration)
    whole = r"\d+|\(\s*\d+\s*(,\s*\d+\s*){0,2}\)"
    if (
        not 2 <= len(parts) <= 3
        or not all(re.fullmatch(whole, part) for part in parts)
        or any("(" in part for part in parts[2:])
    ):
        raise ValueError(f"grid, block and bytes must be whole numbers, got <<<{configuration}>>>\n{HELP}")
    sizes = [tuple(map(int, re.findall(r"\d+", part))) for part in parts]
    rng = np.random.default_rng(0)
    shared = sizes[2][0] if len(sizes) > 2 else 0
    return kernel, sizes[0], sizes[1], shared, [_argument(word, rng) for word in split(arguments)]


def _argument(word: str, rng: np.random.Generator) -> Any:
    array = re.fullmatch(r"([\w ]+?)\s*\[([\d,\s]+)\]", word)
    if array and array.group(1) in TYPES:
        shape = tuple(int(size) for size in array.group(2).split(","))
        values = rng.standard_normal(shape)
        dtype = np.dtype(TYPES[array.group(1)])
        return values.astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
    if re.fullmatch(r"-?\d+", word):
        return np.int32(word)
    if re.fullmatch(r"-?\d+ll", word):
        return np.int64(word[:-2])
    if re.fullmatch(r"-?[\d.e+-]+f", word):
        return np.float32(word[:-1])
    try:
        return np.float64(word)
    except ValueError:
        raise ValueError(f"cannot read the argument {word!r}\n{HELP}") from None


if __name__ == "__main__":
    main()
