"""Turn a .cu file into C++ for the host's compiler: as little as possible, and never a line more or less.

What C++ accepts through include/device.hpp stays as it is. Only three things are rewritten: `extern __shared__`
arrays, launches' own bookkeeping (the table of kernels at the end), and the wrapper that PyCUDA puts around a source.
What the emulator cannot run is refused here by name.
"""

from __future__ import annotations

import re

# What is refused: pattern, its name, and what to do about it.
UNSUPPORTED = (
    (r"\basm\s*(?:volatile\s*)?\(", "inline PTX (asm)"),
    (r"#\s*include\s*[<\"]mma\.h|\bnvcuda::wmma\b|\bwmma::", "wmma tensor-core fragments"),
    (r"#\s*include\s*[<\"]cooperative_groups|\bcooperative_groups::", "cooperative groups"),
    (r"#\s*include\s*[<\"]cuda/|\bcuda::(?:pipeline|barrier|memcpy_async|atomic)", "libcu++ (cuda::)"),
    (r"\b__pipeline_\w+\s*\(|#\s*include\s*[<\"]cuda_pipeline", "asynchronous copies (cp.async)"),
    (r"\btex[123]D\w*\s*[<(]|\btexture\s*<|\bsurf[123]D\w*\s*\(", "textures and surfaces"),
    (
        r"^[ \t]*#[ \t]*define\b[^\n]*\b__global__",
        "__global__ inside a macro (write it out, so that kernels can be found)",
    ),
    (r"__shared__\s+[^;(){}=]*=", "an initial value of a __shared__ variable (nvcc refuses it too)"),
    (r"<<<", "launches from the device or through <<<>>> (launch through PyCUDA)"),
    (r"\b__cluster_dims__\b", "thread block clusters"),
    (r"\bclock(?:64)?\s*\(\s*\)", "clock(): an emulated thread has no time"),
    (r"\bcub::|\bthrust::|#\s*include\s*[<\"](?:cub|thrust|cute|cutlass)/", "CUB, Thrust and CUTLASS"),
)
DYNAMIC_SHARED = re.compile(
    r"\bextern\s+(?:volatile\s+)?__shared__\s+"
    r"((?:(?:__align__\s*\([^()]*\)|alignas\s*\([^()]*\)|__attribute__\s*\(\([^()]*(?:\([^()]*\))?\)\))\s*)*)"
    r"([\w:<>,\s]+?)\s+"
    r"((?:(?:__align__\s*\([^()]*\)|alignas\s*\([^()]*\))\s*)*)(\w+)\s*\[\s*\]"
)
NESTED = r"[^()]*(?:\([^()]*(?:\([^()]*(?:\([^()]*\)[^()]*)*\)[^()]*)*\)[^()]*)*"  # three levels of brackets inside
BOUNDS = rf"(?:__launch_bounds__\s*\(({NESTED})\)\s*)?"
KERNEL = re.compile(
    r"(template\s*<[^;{}]*>\s*|template\s+)?(?:extern\s+\"C\"\s+)?(?:static\s+|inline\s+)*\b__global__\s+"
    + BOUNDS + r"(?:static\s+)?void\s+" + BOUNDS + r"(\w+)\s*(<[^;{}()]*>)?\s*\("
)  # fmt: skip
PYCUDA_HEAD, PYCUDA_TAIL = 'extern "C" {\n', "\n}\n"


class UnsupportedError(RuntimeError):
    """The source uses what the emulator does not have. The message looks like a compiler's, with file and line."""


def host_source(source: str, name: str) -> str:
    """Return C++ for the host; every line of the .cu file keeps its number.

    Parameters
    ----------
    source : the text of a .cu file, perhaps inside PyCUDA's extern "C" { }
    name : the file's name in errors and reports; a #line directive in the source wins
    """
    plain = strip_comments(source)
    refuse_unsupported(plain, name, offset=1 if source.startswith(PYCUDA_HEAD) else 0)
    text = DYNAMIC_SHARED.sub(r"\2* \4 = (\2*)emulator_dynamic_shared()", source)
    text = re.sub(r"\bstatic\s+__shared__\b", "__shared__", text)
    head = f'#line 1 "{name}"\n'
    if text.startswith(PYCUDA_HEAD) and text.endswith(PYCUDA_TAIL):
        text = PYCUDA_HEAD + head + text[len(PYCUDA_HEAD) :]
    else:
        text = head + text
    return text + "\n" + kernel_table(plain, name)


def kernel_table(plain: str, name: str) -> str:
    """Return the table of the file's kernels that the driver reads; a template has an entry per instantiation."""
    rows, seen = [], set()
    for match in KERNEL.finditer(plain):
        template, bounds, late_bounds, function, arguments = match.groups()
        if template and template.strip() != "template":
            continue  # the definition of a template; its explicit instantiations follow
        function += arguments or ""
        if function in seen:
            continue  # declared, then defined
        seen.add(function)
        line = plain.count("\n", 0, match.start(5 if arguments else 4)) + 1
        limit = (bounds or late_bounds or "1024").split(",")[0].strip()
        rows.append(f'#line {line} "{name}"\nEMULATOR_KERNEL(({function}), {line}, {limit})\n')
    return "EMULATOR_TABLE_BEGIN\n" + "".join(rows) + "EMULATOR_TABLE_END\n"


def refuse_unsupported(plain: str, name: str, offset: int = 0) -> None:
    """Raise UnsupportedError for the first thing in the source that the emulator does not have."""
    for pattern, what in UNSUPPORTED:
        match = re.search(pattern, plain, flags=re.MULTILINE)
        if match:
            line = plain.count("\n", 0, match.start()) + 1 - offset
            raise UnsupportedError(f"{name}:{line}: error: not supported by the CPU emulator: {what}")


def strip_comments(source: str) -> str:
    """Return the source with comments and string contents blanked; newlines stay, so that lines can be counted."""

    def blank(match: re.Match[str]) -> str:
        text = match.group()
        if text.startswith('"'):
            return text if text == '"C"' or "/" in text or text.endswith('.h"') else '""'
        return re.sub(r"[^\n]", " ", text)

    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, source, flags=re.DOTALL)
