"""Turn a reference module or kernel into the blank file a learner starts from."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from shared.projects import PRACTICE_BEGIN, PRACTICE_END

NOT_WRITTEN = "raise NotImplementedError"
KERNEL_NOT_WRITTEN = "not written yet"  # what the compiler says of a blank kernel
PRACTICE_REGION = re.compile(
    rf"^([ \t]*){re.escape(PRACTICE_BEGIN)}\n.*?^[ \t]*{re.escape(PRACTICE_END)}$", re.DOTALL | re.MULTILINE
)


def blank(path: Path) -> str:
    """Return the blank of a reference file, a Python module or a CUDA kernel."""
    source = path.read_text(encoding="utf-8")
    return blank_kernel(source, path.name) if path.suffix == ".cu" else blank_source(source)


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
    """Replace every public body by ``raise NotImplementedError``; keep imports, signatures, docstrings, constants.

    Private functions, methods and constants disappear (they give the solution away), unless something that stays
    refers to them outside a body: a default value, an annotation, a base class, a decorator.
    """
    tree = ast.parse(reference)
    lines = reference.splitlines()
    kept_names = _names_outside_bodies(tree)
    edits: list[tuple[int, int, str | None]] = []  # first line, last line (both 1-based), replacement
    for node in tree.body:
        if _is_private(node):
            if not (_defined_names(node) & kept_names):
                edits.append((_first_line(node), node.end_lineno or node.lineno, None))
        elif isinstance(node, ast.FunctionDef):
            edits.append(_blank_body(node))
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if not isinstance(member, ast.FunctionDef):
                    continue
                if member.name.startswith("_") and not member.name.startswith("__"):
                    edits.append((_first_line(member), member.end_lineno or member.lineno, None))
                else:
                    edits.append(_blank_body(member))
    for first, last, replacement in sorted(edits, reverse=True):
        if replacement is None:
            first = _with_comment_above(lines, first)
        lines[first - 1 : last] = [] if replacement is None else [replacement]
    return _squeeze(lines)


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
                if isinstance(child, ast.AST):
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
