"""Turn preprocessed CUDA C++ into C++ for the host's compiler: as little as possible, and never a line more or less.

The preprocessor runs first, so that macros, #if and headers are what they are; it leaves `__global__`, `__shared__` and
`<<<...>>>` alone. Rewritten are these keywords, arrays of dynamic shared memory and launches (kernels.py); at the end comes
the list of the kernels. What the emulator cannot run is refused here by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .curand import CURAND_TABLES
from .host_calls import find_host_call
from .kernels import find_kernels, kernel_list, launches
from .text import ATTRIBUTE, Text, UnsupportedError, device_functions, matching, split, statement_start

PYCUDA_HEAD, PYCUDA_TAIL = 'extern "C" {\n', "\n}\n"
REFUSAL = "not supported by the CPU emulator"
# What is refused in the user's own files: pattern, its name, and what to do about it.
UNSUPPORTED = (
    (r"\b(?:asm|__asm__)\s*(?:volatile\s*|__volatile__\s*)?\(", "inline PTX (asm)"),
    (r"\bwmma::", "wmma tensor-core fragments"),
    (r"\bcuda::(?:pipeline|barrier|memcpy_async|atomic)", "libcu++ (cuda::)"),
    (r"\b__pipeline_\w+\s*\(", "asynchronous copies (cp.async)"),
    (r"\btex[123]D\w*\s*[<(]|\btexture\s*<|\bsurf[123]D\w*\s*\(", "textures and surfaces"),
    (r"__shared__\s+[^;(){}=]*=", "an initial value of a __shared__ variable (nvcc refuses it too)"),
    (r"\b__cluster_dims__\b", "thread block clusters"),
    (r"\bclock64\s*\(\s*\)", "clock64(): an emulated thread has no time"),
    (r"\bcub::|\bthrust::", "CUB, Thrust and CUTLASS"),
    (r"\bcudaGraph\w+|\bcudaStreamBeginCapture\b", "CUDA graphs"),
    (r"\bcudaLaunchCooperativeKernel\b", "barriers of a whole grid (cudaLaunchCooperativeKernel)"),
    (
        r"\bcuda(?:Malloc3D|Memcpy3D|Memset3D|Extent|PitchedPtr)\w*|\bmake_cuda(?:Extent|PitchedPtr)\b",
        "copies in three dimensions (cudaMalloc3D)",
    ),
)
UNSUPPORTED_IN_KERNELS = (
    (r"<<<", "launches from the device"),
    (r"\bclock\s*\(\s*\)", "clock(): an emulated thread has no time"),
)
# Headers that nobody has here: the start of the name, and what it is.
UNSUPPORTED_HEADERS = {
    "mma.h": "wmma tensor-core fragments",
    **dict.fromkeys(("cuda/", "nv/"), "libcu++ (cuda::)"),
    **dict.fromkeys(("cuda_fp8.h", "cuda_fp6.h", "cuda_fp4.h"), "floating point of 8 bits or fewer"),
    "cooperative_groups/": "this part of cooperative groups",
    "cuda_pipeline": "asynchronous copies (cp.async)",
    **dict.fromkeys(("cub/", "thrust/", "cute/", "cutlass/"), "CUB, Thrust and CUTLASS"),
    **dict.fromkeys(
        ("cublas", "curand.h", "cudnn", "cufft", "cusparse", "cusolver"),
        "a library of kernels for a real GPU",
    ),
}
# `used`: the host writes a constant by name, and shared memory that is never written must not be folded away.
# One copy of shared memory is enough, since blocks run one after another. The driver finds the variables in the symbol table, where a
# function's statics are named _ZZ<function>E<variable>, and poisons them before each block.
KEYWORDS = {
    "__global__": "__attribute__((noinline))",
    "__shared__": "static __attribute__((used))",
    "__constant__": "__attribute__((used))",
    "__noinline__": "__attribute__((noinline))",
    "__forceinline__": "inline __attribute__((always_inline))",
    **dict.fromkeys(("__device__", "__host__", "__managed__"), ""),
}
KEYWORD = re.compile(
    rf'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|\b(?:{"|".join(KEYWORDS)})\b'
)  # or a string, which stays


def named(source: str, name: str) -> str:
    """Return the source with the file's name in front; a #line directive in the source wins.

    PyCUDA's extern "C" { } stays outside of it, so that lines are those of the .cu file.
    """
    head = f'#line 1 "{name}"\n'
    if source.startswith(PYCUDA_HEAD) and source.endswith(PYCUDA_TAIL):
        return PYCUDA_HEAD + head + source[len(PYCUDA_HEAD) :]
    return head + source + "\n"


def host_source(
    preprocessed: str, is_ours: Callable[[str], bool], *, checked: bool, program: bool, inline: bool = True
) -> str:
    """Return C++ for the host.

    Parameters
    ----------
    preprocessed : what `g++ -E` makes of `named(source)`
    is_ours : tells whether a header is the emulator's own
    checked : it will be compiled with hooks
    program : it has a main
    inline : __forceinline__ is what it says
    """
    text = Text(preprocessed, is_ours)
    refuse_unsupported(text)
    kernels = list(find_kernels(text))
    edits = [*shared_arrays(text), *launch_bounds(text), *launches(text, kernels)]
    for low, high, replacement in sorted(edits, reverse=True):
        preprocessed = preprocessed[: text.origin(low)] + replacement + preprocessed[text.end(low, high) :]
    preprocessed = without_keywords(preprocessed, inline)
    return f"{preprocessed}\n{kernel_list(kernels)}{description(text, checked, program)}"


# --- what is refused -------------------------------------------------------------------------------------------------


def refuse_unsupported(text: Text) -> None:
    """Raise UnsupportedError for the first thing in the user's files that the emulator does not have."""
    found = [
        (match.start(), what) for pattern, what in UNSUPPORTED for match in re.finditer(pattern, text.plain)
    ]
    for low, high, _ in device_functions(text.plain):
        for pattern, what in UNSUPPORTED_IN_KERNELS:
            found += [(match.start(), what) for match in re.compile(pattern).finditer(text.plain, low, high)]
    if call := find_host_call(text):
        position, name = call
        found.append(
            (
                position,
                f"a call of {name}, a function of the host's, on the device (nvcc refuses it too: __device__ is missing)",
            )
        )
    if found:
        position, what = min(found)
        file, line = text.place(position)
        raise UnsupportedError(f"{file}:{line}: error: {REFUSAL}: {what}")


def refuse_header(message: str) -> None:
    """Raise UnsupportedError where a header is known to be missing here, or one of ours refuses to be included."""
    missing = re.search(
        r"^(.*?:\d+):\d+: fatal error: '?([^\s']+?)'?:? (?:No such|file not)", message, flags=re.MULTILINE
    )
    for start, what in UNSUPPORTED_HEADERS.items():
        if missing and missing[2].startswith(start):
            raise UnsupportedError(f"{missing[1]}: error: {REFUSAL}: <{missing[2]}>, {what}")
    # A header of ours that says so itself: the last file of the chain is the user's.
    refused = re.search(rf"#error \"({REFUSAL}: .*)\"", message)
    chain = re.findall(r"\bfrom (.*?:\d+)[:,]", message)
    if refused and chain:
        raise UnsupportedError(f"{chain[-1]}: error: {refused[1]}")


# --- shared memory ---------------------------------------------------------------------------------------------------


def shared_arrays(text: Text) -> Iterator[tuple[int, int, str]]:
    """Yield edits: `extern __shared__ T x[];` becomes a pointer to dynamic shared memory; `static` is in the keyword already."""
    for match in re.finditer(r"\b__shared__\b", text.plain):
        low = statement_start(text.plain, match.start())
        high = text.plain.find(";", match.end())
        declaration = text.original(low, high)
        if re.search(r"\bstatic\b", text.plain[low : match.start()]):
            yield low, high, re.sub(r"\bstatic\b", "", declaration)
        if not re.search(r"\bextern\b", text.plain[low:high]):
            continue
        bare = re.sub(r"\bextern\b|\b__shared__\b", "", declaration)
        bare = re.sub(ATTRIBUTE, "", bare)
        parts = re.fullmatch(r"(\s*)(.*?)(\w+)\s*\[\s*\](.*)", bare, flags=re.DOTALL)
        if parts:
            space, kind, name, rest = parts.groups()
            kind = kind.strip()
            yield low, high, f"{space}{kind} (*{name}){rest} = ({kind} (*){rest})emulator_dynamic_shared()"


def launch_bounds(text: Text) -> Iterator[tuple[int, int, str]]:
    """Yield edits that take __launch_bounds__ away; the list of kernels has what it says."""
    for match in re.finditer(r"\b__launch_bounds__\s*(?=\()", text.plain):
        yield match.start(), matching(text.plain, match.end()) + 1, ""


def without_keywords(source: str, inline: bool) -> str:
    """Return the source in C++: CUDA's keywords are no macros, since `__noinline__` stands in the attributes of other headers."""

    def replace(match: re.Match[str]) -> str:
        word = match.group()
        if word not in KEYWORDS or (word == "__noinline__" and source[match.start() - 1] in "(,"):
            return word
        return "inline" if word == "__forceinline__" and not inline else KEYWORDS[word]

    return KEYWORD.sub(replace, source)


def variables(text: Text, keywords: str) -> str:
    """Return the variables that are declared with one of the keywords as ` function::name `, or ` ::name ` outside of functions.

    In the object a `__shared__` one looks like any function's static, and a `__device__` one like any of the host's.
    """
    functions = list(device_functions(text.plain))
    names = set()
    for match in re.finditer(rf"\b(?:{keywords})\b", text.plain):
        declaration = text.plain[match.end() : text.plain.find(";", match.end())]
        declaration = re.sub(r"\[[^\]]*\]", "", re.sub(ATTRIBUTE, "", declaration))
        if re.match(r"[^={]*\(", declaration):
            continue  # a function
        inside = [name for low, high, name in functions if low < match.start() < high]
        for part in split(declaration):
            name = re.search(r"(\w+)\s*$", re.split(r"[={]", part)[0])
            names |= {f"{inside[-1] if inside else ''}::{name[1]}"} if name else set()
    return f" {' '.join(sorted(names))} "


def description(text: Text, checked: bool, program: bool) -> str:
    """Return what an object says of itself to the driver (abi.hpp)."""
    everywhere = "__device__|__constant__|__managed__|__shared__"
    shared, device, managed = (variables(text, words) for words in ("__shared__", everywhere, "__managed__"))
    device += "".join(f"::{name} " for name in CURAND_TABLES)
    lines = [
        'extern "C" __attribute__((visibility("default"), used)) const emulator_module emulator_module_info = {'
    ]
    lines.append(f'    EMULATOR_ABI, {int(checked)}, &emulator_rows, "{shared}", "{device}", "{managed}"}};')
    if program:  # it has no loader: it tells the driver that it is there
        lines.append(
            "static const int emulator_registered = emulator_register_program(&emulator_module_info);"
        )
    return "\n".join(lines) + "\n"
