"""Turn preprocessed CUDA C++ into C++ for the host's compiler: as little as possible, and never a line more or less.

The preprocessor runs first, so that macros, #if and headers are what they are; it leaves `__global__`, `__shared__` and
`<<<...>>>` alone. Rewritten are these keywords, arrays of dynamic shared memory and launches; at the end comes the list of the kernels. What the emulator cannot run is refused here by name.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .curand import CURAND_TABLES

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
        ("cublas", "cudnn", "cufft", "cusparse", "cusolver"), "a library of kernels for a real GPU"
    ),
}
MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)"([ \d]*)$', re.MULTILINE)
LITERAL = re.compile(
    r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#[^\n]*', re.MULTILINE
)  # a #pragma too
ATTRIBUTE = re.compile(
    r"\b(?:__align__|alignas|__attribute__|__launch_bounds__)\s*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
)
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
NAMESPACE = re.compile(r"\b(?:inline\s+)?namespace\b([\w\s:]*)\{|\{|\}")
OPEN, CLOSE = dict(zip("([{<", ")]}>", strict=True)), dict(zip(")]}>", "([{<", strict=True))


class UnsupportedError(RuntimeError):
    """The source uses what the emulator does not have. The message looks like a compiler's, with file and line."""


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


class Text:
    """A preprocessed source, of which `plain` is what comes from the user's files, with the contents of strings blanked.

    Headers are most of a source; they are left out, so positions in `plain` are not those in the source.
    """

    def __init__(self, source: str, is_ours: Callable[[str], bool]) -> None:
        self.source = source
        self.starts: list[int] = [0]  # where each piece begins in `plain`
        self.pieces: list[tuple[int, str, int]] = [
            (0, "", 0)
        ]  # and where in the source, of which file, at which line
        parts: list[str] = []
        length = 0
        markers = [*MARKER.finditer(source)]
        for marker, after in zip(markers, [*markers[1:], None], strict=True):
            if "3" in marker[3].split() or is_ours(marker[2]) or marker[2].startswith("<"):
                continue
            part = source[marker.end() + 1 : after.start() if after else len(source)]
            self.starts.append(length)
            self.pieces.append((marker.end() + 1, marker[2], int(marker[1])))
            parts.append(LITERAL.sub(_blank_literal, part))
            length += len(part)
        self.plain = "".join(parts)

    def _piece(self, position: int) -> tuple[int, int, str, int]:
        i = bisect.bisect_right(self.starts, position) - 1
        return self.starts[i], *self.pieces[i]

    def origin(self, position: int) -> int:
        """Return the position in the source."""
        start, source_start, _, _ = self._piece(position)
        return source_start + position - start

    def end(self, low: int, high: int) -> int:
        """Return where a part ends in the source: behind its last character, not before the next piece."""
        return self.origin(high - 1) + 1 if high > low else self.origin(low)

    def original(self, low: int, high: int) -> str:
        """Return the source between two positions, with the contents of strings."""
        return self.source[self.origin(low) : self.end(low, high)]

    def place(self, position: int) -> tuple[str, int]:
        """Return file and line of a position."""
        start, _, file, line = self._piece(position)
        return file, line + self.plain.count("\n", start, position)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _blank_literal(match: re.Match[str]) -> str:
    text = match.group()
    return text if text == '"C"' else _blank(text)


def matching(plain: str, position: int) -> int:
    """Return the position of the bracket that belongs to the one at `position`, in either direction; -1 if there is none.

    Angle brackets are only counted where the first one is angular.
    """
    first = plain[position]
    forward = first in OPEN
    partner = (OPEN if forward else CLOSE)[first]
    depth = 0
    for i in range(position, len(plain)) if forward else range(position, -1, -1):
        if plain[i] == first:
            depth += 1
        elif plain[i] == partner and not (partner == ">" and plain[i - 1] == "-"):
            depth -= 1
            if not depth:
                return i
    return -1


def _statement_start(plain: str, position: int) -> int:
    low = 1 + max(plain.rfind(mark, 0, position) for mark in ";{}")
    return low + len(plain[low:position]) - len(plain[low:position].lstrip())


# --- what is refused -------------------------------------------------------------------------------------------------


def refuse_unsupported(text: Text) -> None:
    """Raise UnsupportedError for the first thing in the user's files that the emulator does not have."""
    found = [
        (match.start(), what) for pattern, what in UNSUPPORTED for match in re.finditer(pattern, text.plain)
    ]
    for low, high, _ in device_functions(text.plain):
        for pattern, what in UNSUPPORTED_IN_KERNELS:
            found += [(match.start(), what) for match in re.compile(pattern).finditer(text.plain, low, high)]
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


def device_functions(plain: str) -> Iterator[tuple[int, int, str]]:
    """Find the functions for the device: where the body begins and ends, and the name."""
    for match in re.finditer(r"\b(?:__global__|__device__)\b", plain):
        body = re.compile(r"[;{]").search(plain, match.end())
        if body and body.group() == "{":
            name = re.search(r"(\w+)\s*\(", re.sub(ATTRIBUTE, "", plain[match.end() : body.start()]))
            yield body.start(), matching(plain, body.start()) + 1, name[1] if name else ""


# --- shared memory ---------------------------------------------------------------------------------------------------


def shared_arrays(text: Text) -> Iterator[tuple[int, int, str]]:
    """Yield edits: `extern __shared__ T x[];` becomes a pointer to dynamic shared memory; `static` is in the keyword already."""
    for match in re.finditer(r"\b__shared__\b", text.plain):
        low = _statement_start(text.plain, match.start())
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
        for part in _split(declaration):
            name = re.search(r"(\w+)\s*$", re.split(r"[={]", part)[0])
            names |= {f"{inside[-1] if inside else ''}::{name[1]}"} if name else set()
    return f" {' '.join(sorted(names))} "


# --- kernels ---------------------------------------------------------------------------------------------------------


@dataclass
class Kernel:
    """A `__global__` function as it is declared somewhere.

    Parameters
    ----------
    name : without namespaces; with template arguments in an explicit instantiation
    parameters : the text between its brackets
    namespaces : that it is in, from the outermost; "" for one without a name
    template : how many parameters its template has, or None for a function, an instantiation or a specialisation
    bounds : the first argument of __launch_bounds__, or "1024"
    """

    name: str
    parameters: str
    namespaces: tuple[str, ...]
    template: int | None
    bounds: str
    file: str
    line: int


def find_kernels(text: Text) -> Iterator[Kernel]:
    """Find the kernels that the user's files declare."""
    scopes = list(_scopes(text.plain))
    for match in re.finditer(r"\b__global__\b", text.plain):
        low = _statement_start(text.plain, match.start())
        rest = text.plain[match.end() : match.end() + 2000]
        bare = re.sub(
            r"\b(?:__launch_bounds__|__attribute__|__align__)\s*(?=\()", lambda word: "@" * len(word[0]), rest
        )
        # The first name that a bracket follows; what belongs to an attribute is skipped.
        position = match.end() + _name_end(bare)
        name = re.search(r"([\w:]+\s*(?:<[^;{}()]*>)?)\s*$", text.plain[match.end() : position])
        if not name:
            continue
        close = matching(text.plain, position)
        bounds = re.search(r"__launch_bounds__\s*\(", text.plain[low:position])
        limit = "1024"
        if bounds:
            start = low + bounds.end() - 1
            limit = _split(text.original(start + 1, matching(text.plain, start)))[0]
        file, line = text.place(match.end() + name.start(1))
        inside = [scope for start, end, scope in scopes if start < low <= end]
        yield Kernel(
            re.sub(r"\s+", "", name[1]), text.original(position + 1, close), tuple(inside),
            _template_parameters(text.plain[low:position]), limit, file, line,
        )  # fmt: skip


def _name_end(bare: str) -> int:
    """Return where the bracket of the parameters opens; brackets after @ are an attribute's."""
    position = 0
    while True:
        position = bare.find("(", position)
        if position < 0 or not bare[:position].rstrip().endswith("@"):
            return position
        position = matching(bare, position) + 1


def _template_parameters(head: str) -> int | None:
    found = re.search(r"\btemplate\s*<", head)
    if not found:
        return None
    inside = head[found.end() : matching(head, found.end() - 1)]
    return len(_split(inside)) or None


def _scopes(plain: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and name of each namespace; a::b is two."""
    for match in NAMESPACE.finditer(plain):
        if match[1] is not None:
            end = matching(plain, match.end() - 1)
            for name in match[1].split("::"):
                yield match.start(), end, name.strip()


def _split(text: str) -> list[str]:
    """Split at the commas that are outside of brackets."""
    parts, depth = [""], 0
    for i, char in enumerate(text):
        depth += (char in "([{<") - (char in ")]}" or (char == ">" and text[i - 1] != "-"))
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def kernel_list(kernels: list[Kernel]) -> str:
    """Return a row for each kernel, in its own namespace, for the driver's list."""
    rows = []
    seen = set()
    for i, kernel in enumerate(kernels):
        key = (kernel.namespaces, kernel.name, re.sub(r"\s+", "", kernel.parameters))
        if kernel.template or key in seen:
            continue
        seen.add(key)
        types = ", ".join(re.split(r"=", part)[0] for part in _split(kernel.parameters))
        function = kernel.name if "<" in kernel.name else f"static_cast<void (*)({types})>({kernel.name})"
        described = f"emulator_describe({function}, {kernel.line}, {kernel.bounds})"
        row = f"static const emulator_row emulator_row_{i}({described});"
        for name in reversed(kernel.namespaces):
            row = f"namespace {name} {{ {row} }}"
        rows.append(f'# {kernel.line} "{kernel.file}"\n{row}\n')
    return "".join(rows)


def description(text: Text, checked: bool, program: bool) -> str:
    """Return what an object says of itself to the driver (abi.hpp)."""
    names = (
        variables(text, words) for words in ("__shared__", "__device__|__constant__|__managed__|__shared__")
    )
    shared, device = names
    device += "".join(f"::{name} " for name in CURAND_TABLES)
    lines = [
        'extern "C" __attribute__((visibility("default"), used)) const emulator_module emulator_module_info = {'
    ]
    lines.append(f'    EMULATOR_ABI, {int(checked)}, &emulator_rows, "{shared}", "{device}"}};')
    if program:  # it has no loader: it tells the driver that it is there
        lines.append(
            "static const int emulator_registered = emulator_register_program(&emulator_module_info);"
        )
    return "\n".join(lines) + "\n"


# --- launches --------------------------------------------------------------------------------------------------------


def launches(text: Text, kernels: list[Kernel]) -> Iterator[tuple[int, int, str]]:
    """Yield edits: `kernel<<<grid, block>>>(a, b)` becomes a call of emulator_launch (launch.hpp).

    A kernel whose template arguments follow from those of the call cannot be named on its own: it is called in a lambda.
    """
    wanted = {kernel.name.split("<")[0]: kernel.template or 0 for kernel in kernels if "<" not in kernel.name}
    overloaded = {name for name in wanted if sum(kernel.name == name for kernel in kernels) > 1}
    for match in re.finditer(r"<<<", text.plain):
        low = _callee_start(text.plain, match.start())
        end = text.plain.find(">>>", match.end())
        opening = text.plain.find("(", end)
        if end < 0 or opening < 0 or text.plain[end + 3 : opening].strip():
            file, line = text.place(match.start())
            raise UnsupportedError(f"{file}:{line}: error: a launch is kernel<<<grid, block>>>(arguments)")
        callee = text.original(low, match.start()).strip()
        given = callee[callee.find("<") + 1 : -1] if callee.endswith(">") else ""
        name = callee.split("<")[0].split("::")[-1].strip()
        deduced = len(_split(given)) < wanted.get(name, 0) or name in overloaded
        before, after = "emulator_launch((", "), "
        if deduced:
            before = f'emulator_launch_deduced("{name}", [&](auto... emulator_arguments) {{ ('
            after = ")(emulator_arguments...); }, "
        comma = ", " if text.plain[opening + 1 : matching(text.plain, opening)].strip() else ""
        yield low, low, before
        yield match.start(), match.end(), f"{after}emulator_configuration("
        yield end, opening + 1, f"){comma}" + "\n" * text.plain.count("\n", end, opening)


def _callee_start(plain: str, end: int) -> int:
    """Return where the expression that is launched begins: a::kernel<int, 4>, (pointer) or kernels[i]."""
    position = end
    while True:
        while plain[position - 1].isspace():
            position -= 1
        if plain[position - 1] in ">)]":
            opening = matching(plain, position - 1)
            if opening < 0:
                return position
            position = opening
            if plain[opening] == "(":
                return position
            continue
        position -= len(re.search(r"\w*$", plain[:position])[0])  # type: ignore[index]
        if plain[:position].rstrip().endswith("::"):
            position = plain.rfind("::", 0, position)
            continue
        return position
