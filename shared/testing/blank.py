"""Turn a reference module or kernel into the blank file a learner starts from."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from shared.projects import PRACTICE_BEGIN, PRACTICE_END, Project

NOT_WRITTEN = "raise NotImplementedError"
KERNEL_NOT_WRITTEN = "not written yet"  # what the compiler says of a blank kernel
PRACTICE_REGION = re.compile(
    rf"^([ \t]*){re.escape(PRACTICE_BEGIN)}\n.*?^[ \t]*{re.escape(PRACTICE_END)}$", re.DOTALL | re.MULTILINE
)


Edit = tuple[int, int, str | None]  # first line, last line (both 1-based), what stands there instead


def blank(project: Project, source: str) -> str:
    """Return the blank of a file of the reference, a Python module or a CUDA kernel; a given module stays as it is."""
    path = project.folder / source
    text = path.read_text(encoding="utf-8")
    if path.stem in project.given:
        return text
    return blank_kernel(text, path.name) if path.suffix == ".cu" else blank_source(text)


def blank_units(path: Path) -> set[str]:
    """Return what is not written yet in a learner's file: functions, classes, methods, or the kernel.

    A class is blank while each of its methods is.
    """
    if path.suffix == ".cu":
        blank_region = f'#error "{KERNEL_NOT_WRITTEN}' in path.read_text(encoding="utf-8")
        return {path.stem} if blank_region else set()
    found = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and _is_blank(node):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = [member for member in node.body if isinstance(member, ast.FunctionDef)]
            blanks = [method.name for method in methods if _is_blank(method)]
            found |= {f"{node.name}.{name}" for name in blanks}
            if blanks and len(blanks) == len(methods):
                found.add(node.name)
    return found


def _is_blank(function: ast.FunctionDef) -> bool:
    return ast.unparse(function.body[-1]) in (NOT_WRITTEN, f"{NOT_WRITTEN}()") and len(function.body) <= 2


def leaked_names(reference: str) -> set[str]:
    """Return private names of a reference that its blank still mentions, though they are gone from it."""
    kept = blank_source(reference)
    private = {
        name for node in ast.parse(reference).body if _is_private(node) for name in _defined_names(node)
    }
    gone = private - {name for node in ast.parse(kept).body for name in _defined_names(node)}
    return {name for name in gone if re.search(rf"\b{name}\b", kept)}


def blank_kernel(reference: str, name: str) -> str:
    """Replace each practice region of a kernel by an ``#error``, so that compiling says what is missing.

    Raises
    ------
    ValueError
        If a region does not end.
    """
    error = f'#error "{KERNEL_NOT_WRITTEN}: {name}"'
    text, regions = PRACTICE_REGION.subn(rf"\g<1>{PRACTICE_BEGIN}\n{error}\n\g<1>{PRACTICE_END}", reference)
    if regions != reference.count(PRACTICE_BEGIN):
        raise ValueError(f"{name}: a line {PRACTICE_BEGIN!r} has no {PRACTICE_END!r} below it")
    return text


def blank_source(reference: str) -> str:
    """Replace every public body by ``raise NotImplementedError``; keep signatures, docstrings and constants.

    What gives the solution away disappears: private functions, methods and constants, imports of the standard library,
    and the paragraph "How it …" of the module docstring; unless something that stays refers to it outside a body (a
    default value, an annotation, a base class, a decorator). Packages such as NumPy stay imported.
    """
    tree = ast.parse(reference)
    kept_names = _names_outside_bodies(tree)
    edits: list[Edit] = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if (kept := _kept_import(node, kept_names)) != ast.unparse(node):
                edits.append((node.lineno, node.end_lineno or node.lineno, kept or None))
        elif _is_private(node):
            if not (_defined_names(node) & kept_names):
                edits.append(_removal(node))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            edits += _blank_bodies(node)
    return _squeeze(_without_empty_headings(_without_how(_edited(reference.splitlines(), edits))))


def blank_unit(reference: str, unit: str) -> str:
    """Return a module with one function or class to write: all else is there, but for private parts that only it used."""
    lines = reference.splitlines()
    (node,) = (node for node in ast.parse(reference).body if unit in _defined_names(node))
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        lines = _edited(lines, _blank_bodies(node))
    while unused := _unused_private(ast.parse("\n".join(lines))):
        lines = _edited(lines, [_removal(node) for node in unused])
    return _squeeze(_without_empty_headings(_without_how(lines)))


def _unused_private(tree: ast.Module) -> list[ast.stmt]:
    """Return the private statements of a module that no other one mentions."""
    names = {
        id(node): {name.id for name in ast.walk(node) if isinstance(name, ast.Name)} for node in tree.body
    }
    return [
        node
        for node in tree.body
        if _is_private(node)
        and not any(_defined_names(node) & names[id(other)] for other in tree.body if other is not node)
    ]


def _edited(lines: list[str], edits: list[Edit]) -> list[str]:
    """Return the lines with each edit made; what is removed goes with the comment above it."""
    lines = list(lines)
    for first, last, replacement in sorted(edits, reverse=True):
        if replacement is None:
            first = _with_comment_above(lines, first)
        lines[first - 1 : last] = [] if replacement is None else [replacement]
    return lines


def _blank_bodies(node: ast.FunctionDef | ast.ClassDef) -> list[Edit]:
    """Return the edits that blank a function, or each public method of a class; its private ones go."""
    if isinstance(node, ast.FunctionDef):
        return [_blank_body(node)]
    methods = [member for member in node.body if isinstance(member, ast.FunctionDef)]
    return [_removal(method) if _is_private_method(method) else _blank_body(method) for method in methods]


def _removal(node: ast.stmt) -> Edit:
    return _first_line(node), node.end_lineno or node.lineno, None


def _kept_import(node: ast.Import | ast.ImportFrom, used: set[str]) -> str:
    """Return what stays of an import statement: the names in use, and whole packages from outside."""
    if isinstance(node, ast.ImportFrom):
        if node.module == "__future__":
            return ast.unparse(node)
        names = [alias for alias in node.names if (alias.asname or alias.name) in used]
        return ast.unparse(ast.ImportFrom(node.module, names, node.level)) if names else ""
    names = [
        alias
        for alias in node.names
        if (alias.asname or alias.name).split(".")[0] in used
        or alias.name.split(".")[0] not in sys.stdlib_module_names
    ]
    return ast.unparse(ast.Import(names)) if names else ""


def _without_how(lines: list[str]) -> list[str]:
    """Drop the paragraphs of the module docstring that begin with "How it": they are about the reference."""
    kept: list[str] = []
    inside = dropping = False
    for number, line in enumerate(lines):
        if line.startswith('"""') and number < 3:
            inside = True
        dropping = inside and (line.startswith("How it ") or (dropping and bool(line.strip())))
        if inside and number and line.rstrip().endswith('"""'):
            kept.append('"""' if dropping else line)
            return [*kept, *lines[number + 1 :]]
        if not dropping and (line.strip() or kept[-1:] != [""]):
            kept.append(line)
    return kept


def _without_empty_headings(lines: list[str]) -> list[str]:
    """Drop each ``# --- heading ---`` with nothing left below it."""
    kept: list[str] = []
    for line in reversed(lines):
        below = next((other for other in reversed(kept) if other.strip()), "# ---")
        if not (line.startswith("# ---") and below.startswith("# ---")):
            kept.append(line)
    return kept[::-1]


def _is_private_method(member: ast.AST) -> bool:
    """Whether a member of a class is a method that its blank does not have."""
    return (
        isinstance(member, ast.FunctionDef)
        and member.name.startswith("_")
        and not member.name.startswith("__")
    )


def _blank_body(function: ast.FunctionDef) -> tuple[int, int, str]:
    body = function.body
    has_docstring = ast.get_docstring(function) is not None
    indent = " " * body[0].col_offset
    last = function.end_lineno or function.lineno
    if not has_docstring:
        return body[0].lineno, last, indent + NOT_WRITTEN
    docstring_end = body[0].end_lineno or body[0].lineno
    if len(body) == 1:  # nothing but a docstring: the statement goes below it
        return docstring_end + 1, docstring_end, indent + NOT_WRITTEN
    return docstring_end + 1, last, indent + NOT_WRITTEN


def _defined_names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def _is_private(node: ast.stmt) -> bool:
    names = _defined_names(node)
    return bool(names) and all(name.startswith("_") and not name.startswith("__") for name in names)


def _names_outside_bodies(tree: ast.Module) -> set[str]:
    """Collect the names that statements which stay refer to, function bodies excepted."""
    used: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)
        for field, value in ast.iter_fields(node):
            if isinstance(node, ast.FunctionDef) and field == "body":
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not (
                    isinstance(node, ast.ClassDef) and _is_private_method(child)
                ):
                    visit(child)

    for node in tree.body:
        if not _is_private(node):
            visit(node)
    for _ in range(2):  # what a private thing that stays refers to stays as well
        for node in tree.body:
            if _is_private(node) and _defined_names(node) & used:
                visit(node)
    return used


def _first_line(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _with_comment_above(lines: list[str], first: int) -> int:
    """Return the first line of the comment block that stands directly above line `first`."""
    while first > 1 and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return first


def _squeeze(lines: list[str]) -> str:
    """Join lines, with no more than two blank ones in a row."""
    kept: list[str] = []
    for line in lines:
        if line.strip() or kept[-2:] != ["", ""]:
            kept.append(line.rstrip())
    return "\n".join(kept).strip("\n") + "\n"
