"""Change a project's modules in small ways and see whether its tests notice: nox -s mutate -- PROJECT [MODULE ...] [--list].

The changes are mutmut's. Its own command line would add an import to the modules, which the tests refuse, and pass over
module constants and decorated functions. Here each changed module is written into a temporary folder, beside the rest of
the reference, and graded there as with ``pytest --practice``: the working tree is never touched. Kernels are not changed.

A change that no test notices is printed. Kill it with a test, or paste it into tests/equivalent.toml with the reason why
nobody can notice it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import pytest
from mutmut.mutation.mutators import mutation_operators, operator_if_exp

from shared.projects import ROOT, Project, load_project, read_toml

OPERATORS = [*mutation_operators, (cst.If, operator_if_exp)]  # mutmut forces the branch of `a if b else c` only
TYPE_ALIAS = re.compile(r"[A-Z]\w*[a-z]\w*")
SHORTEST_REASON = 12

Key = tuple[str, str, str]  # file, was, now


@dataclass(frozen=True)
class Mutant:
    """A module with one small change."""

    file: str
    line: int
    was: str  # the changed lines, stripped and joined by a space
    now: str
    source: str

    @property
    def entry(self) -> str:
        """What to paste into equivalent.toml; JSON's strings are TOML's too."""
        rows = {"file": self.file, "was": self.was, "now": self.now, "reason": ""}
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in rows.items()]
        return "\n".join([f"[[mutant]]  # line {self.line}", *lines, ""])


class Changes(cst.CSTVisitor):
    """What can be changed in a module: pairs of a node and another in its place."""

    def __init__(self, module: cst.Module) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode]] = []
        for statement in module.body:
            if not _is_for_tools(statement):
                statement.visit(self)

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Try every operator, unless the node is noise: docstrings, annotations, and the text of error messages."""
        docstring = isinstance(node, cst.Expr) and isinstance(node.value, cst.BaseString)
        if docstring or isinstance(node, cst.Annotation | cst.Raise):
            return False
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                self.found += [(node, new) for new in operator(node) if not _is_same_number(node, new)]
        return True


def _is_for_tools(statement: cst.CSTNode) -> bool:
    """Whether it is ``__all__`` or a type alias, which only linters and type checkers read."""
    if not isinstance(statement, cst.SimpleStatementLine) or not isinstance(statement.body[0], cst.Assign):
        return False
    target = statement.body[0].targets[0].target
    return isinstance(target, cst.Name) and (
        target.value == "__all__" or TYPE_ALIAS.fullmatch(target.value) is not None
    )


def _is_same_number(old: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether a float is so large that one more makes no difference."""
    return isinstance(old, cst.Float) and isinstance(new, cst.Float) and old.evaluated_value == new.evaluated_value


def find_mutants(file: str, source: str) -> Iterator[Mutant]:
    """Make one change of a module after the other."""
    module, before = cst.parse_module(source), source.splitlines()
    for old, new in Changes(module).found:
        changed = cst.ensure_type(module.deep_replace(old, new), cst.Module).code
        after = changed.splitlines()
        start = len(os.path.commonprefix([before, after]))
        end = len(os.path.commonprefix([before[start:][::-1], after[start:][::-1]]))
        was, now = (" ".join(map(str.strip, lines[start : len(lines) - end])) for lines in (before, after))
        yield Mutant(file, start + 1, was, now, changed)


def read_equivalent(project: Project, files: Sequence[str]) -> set[Key]:
    """Read which changes of `files` nobody can notice.

    Raises
    ------
    ValueError
        An entry is not complete, or of another file: the message shows it.
    """
    entries = read_toml(project.folder / "tests" / "equivalent.toml").get("mutant", [])
    for entry in entries:
        complete = set(entry) == {"file", "was", "now", "reason"} and len(entry["reason"].strip()) >= SHORTEST_REASON
        if not complete or entry["file"] not in project.sources:
            raise ValueError(
                "equivalent.toml: an entry has file (one of the project), was, now, and a reason of at least "
                f"{SHORTEST_REASON} characters, unlike {entry}"
            )
    return {(entry["file"], entry["was"], entry["now"]) for entry in entries if entry["file"] in files}


def warm_up(project: Project) -> None:
    """Import here what the tests import, so that each child only imports the project and its tests."""
    path = list(sys.path)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        write_answer(project, Path(folder), further=True)
        _run_pytest(project, folder, "--collect-only")
    sys.path[:] = path
    tests = {path.stem for path in (project.folder / "tests").rglob("*.py")}
    for name in {"conftest", *project.modules, *tests} & set(sys.modules):
        del sys.modules[name]


def tests_pass(project: Project, mutant: Mutant | None = None, limit_s: float | None = None) -> bool:
    """Run the tests on a copy of the reference with `mutant` in it; what takes longer than `limit_s` has failed."""
    with tempfile.TemporaryDirectory() as folder:
        write_answer(project, Path(folder), further=True)
        if mutant:
            Path(folder, mutant.file).write_text(mutant.source, encoding="utf-8")
        child = multiprocessing.get_context("fork").Process(target=_run_as_child, args=(project, folder))
        child.start()
        try:
            child.join(limit_s)
        finally:
            child.kill()
            child.join()
        return child.exitcode == 0


def _run_as_child(project: Project, folder: str) -> None:
    """End the process with the status of pytest, whatever threads the tests have left."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os._exit(_run_pytest(project, folder, "-x", "--tb=no"))


def _run_pytest(project: Project, folder: str, *options: str) -> int:
    with contextlib.chdir(project.folder):
        return pytest.main([f"--practice={folder}", "-q", "-pno:cacheprovider", *options])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what survives, and the score of each module; return 1 where something is left to do."""
    parser = argparse.ArgumentParser(prog="nox -s mutate --", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("project")
    parser.add_argument("modules", nargs="*", metavar="module", help="default: all of the project")
    parser.add_argument("--list", action="store_true", help="only count the changes")
    options = parser.parse_args(arguments)
    project = load_project(ROOT / "projects" / options.project)
    if unknown := set(options.modules) - set(project.modules):
        parser.error(f"{project.name} has no module {', '.join(unknown)}, but {', '.join(project.modules)}")
    files = [f"{module}.py" for module in options.modules or project.modules]
    sources = {file: (project.folder / file).read_text(encoding="utf-8") for file in files}
    counts = {file: len(Changes(cst.parse_module(source)).found) for file, source in sources.items()}
    if options.list:
        print("\n".join(f"{file}: {count} changes" for file, count in counts.items()))
        return 0

    equivalent = read_equivalent(project, files)
    warm_up(project)
    start = time.perf_counter()
    if not tests_pass(project):
        parser.error(f"the tests fail before anything is changed: see nox -s {project.name}")
    limit_s = 10 + 5 * (time.perf_counter() - start)
    open_work, used = 0, set()
    for file, source in sources.items():
        excused = survived = 0
        for number, mutant in enumerate(find_mutants(file, source), start=1):
            if sys.stderr.isatty():
                print(f"\r{file}: {number} of {counts[file]}", end="\r", file=sys.stderr)
            if not tests_pass(project, mutant, limit_s):
                continue
            if (mutant.file, mutant.was, mutant.now) in equivalent: ...
    return 0


if __name__ == "__main__":
    sys.exit(main())
