"""Find the kernels of a source and their launches: the list of kernels for the driver, and calls in the place of `<<<...>>>`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .text import Text, UnsupportedError, matching, split, statement_start

NAMESPACE = re.compile(r"\b(?:inline\s+)?namespace\b([\w\s:]*)\{|\{|\}")


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

    def cast(self, name: str) -> str:
        """Return an expression for the kernel that no function of the same name can be taken for."""
        types = ", ".join(part.split("=")[0] for part in split(self.parameters))
        return f"static_cast<void (*)({types})>({name})"


def find_kernels(text: Text) -> Iterator[Kernel]:
    """Find the kernels that the user's files declare."""
    scopes = list(_scopes(text.plain))
    for match in re.finditer(r"\b__global__\b", text.plain):
        start = statement_start(text.plain, match.start())
        bracket = match.end() + _parameters(text.plain[match.end() : match.end() + 2000])
        name = re.search(r"([\w:]+\s*(?:<[^;{}()]*>)?)\s*$", text.plain[match.end() : bracket])
        if not name:
            continue
        file, line = text.place(match.end() + name.start(1))
        yield Kernel(
            name=re.sub(r"\s+", "", name[1]),
            parameters=text.original(bracket + 1, matching(text.plain, bracket)),
            namespaces=tuple(scope for low, high, scope in scopes if low < start <= high),
            template=_template_parameters(text.plain[start:bracket]),
            bounds=_bounds(text, start, bracket),
            file=file,
            line=line,
        )


def _parameters(declaration: str) -> int:
    """Return where the bracket of the parameters opens: the first one that is no attribute's."""
    attribute = re.compile(r"\b(?:__launch_bounds__|__attribute__|__align__)\s*$")
    position = declaration.find("(")
    while position >= 0 and attribute.search(declaration[:position]):
        position = declaration.find("(", matching(declaration, position))
    return position


def _bounds(text: Text, start: int, end: int) -> str:
    """Return the most threads that __launch_bounds__ in a declaration allows."""
    found = re.compile(r"__launch_bounds__\s*\(").search(text.plain, start, end)
    if not found:
        return "1024"
    return split(text.original(found.end(), matching(text.plain, found.end() - 1)))[0]


def _template_parameters(head: str) -> int | None:
    found = re.search(r"\btemplate\s*<", head)
    if not found:
        return None
    inside = head[found.end() : matching(head, found.end() - 1)]
    return len(split(inside)) or None


def _scopes(plain: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and name of each namespace; a::b is two."""
    for match in NAMESPACE.finditer(plain):
        if match[1] is not None:
            end = matching(plain, match.end() - 1)
            for name in match[1].split("::"):
                yield match.start(), end, name.strip()


def kernel_list(kernels: list[Kernel]) -> str:
    """Return a row for each kernel, in its own namespace, for the driver's list."""
    rows = []
    seen = set()
    for i, kernel in enumerate(kernels):
        key = (kernel.namespaces, kernel.name, re.sub(r"\s+", "", kernel.parameters))
        if kernel.template or key in seen:
            continue
        seen.add(key)
        function = kernel.name if "<" in kernel.name else kernel.cast(kernel.name)
        described = f"emulator_describe({function}, {kernel.line}, {kernel.bounds})"
        row = f"static const emulator_row emulator_row_{i}({described});"
        for name in reversed(kernel.namespaces):
            row = f"namespace {name} {{ {row} }}"
        rows.append(f'# {kernel.line} "{kernel.file}"\n{row}\n')
    return "".join(rows)


# --- launches --------------------------------------------------------------------------------------------------------


def launches(text: Text, kernels: list[Kernel]) -> Iterator[tuple[int, int, str]]:
    """Yield edits: `kernel<<<grid, block>>>(a, b)` becomes a call of emulator_launch (launch.hpp)."""
    for match in re.finditer(r"<<<", text.plain):
        low = _callee_start(text.plain, match.start())
        end = text.plain.find(">>>", match.end())
        opening = text.plain.find("(", end)
        if end < 0 or opening < 0 or text.plain[end + 3 : opening].strip():
            file, line = text.place(match.start())
            raise UnsupportedError(f"{file}:{line}: error: a launch is kernel<<<grid, block>>>(arguments)")
        callee = text.original(low, match.start()).strip()
        comma = ", " if text.plain[opening + 1 : matching(text.plain, opening)].strip() else ""
        yield low, match.end(), _launched(callee, kernels) + "\n" * text.plain.count("\n", low, match.end())
        yield end, opening + 1, f"){comma}" + "\n" * text.plain.count("\n", end, opening)


def _launched(callee: str, kernels: list[Kernel]) -> str:
    """Return the beginning of a launch, up to its configuration.

    A kernel that cannot be named on its own, since its template arguments follow from those of the call, or since there are several,
    is called in a lambda.
    """
    name = callee.split("<")[0].split("::")[-1].strip()
    known = [kernel for kernel in kernels if kernel.name == name]
    given = split(callee[callee.find("<") + 1 : -1]) if callee.endswith(">") else []
    different = {re.sub(r"\s+", "", kernel.cast("")) for kernel in known}
    if (
        any(len(given) < (kernel.template or 0) or "=" in kernel.parameters for kernel in known)
        or len(different) > 1
    ):
        call = f"[&](auto... emulator_arguments) {{ ({callee})(emulator_arguments...); }}"
        return f'emulator_launch_deduced("{name}", {call}, emulator_configuration('
    if known and callee == name and not known[0].template and not known[0].namespaces:
        callee = known[0].cast(name)  # the host may have a function of this name
    return f"emulator_launch({callee}, emulator_configuration("


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
