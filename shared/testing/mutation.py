"""Change a project's modules in small ways and see whether its tests notice: nox -s mutate -- PROJECT [MODULE ...] [--list | --sample N].

The changes are mutmut's. Its own command line would add an import to the modules, which the tests refuse, and pass over
module constants and decorated functions. Here each changed module stands in a temporary folder, beside the rest of the
reference, and is graded there as with ``pytest --practice``: the working tree is never touched. Kernels are not changed.

A change that no test notices is printed. Kill it with a test, or paste it into tests/equivalent.toml with the reason why
nobody can notice it.

``--sample 60`` tries sixty changes of each module, the same ones each time, where all of them take too long.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import libcst as cst
import libcst.matchers as m
import pytest
from mutmut.mutation.mutators import OPERATORS_TYPE, mutation_operators, operator_if_exp

from shared.projects import ROOT, Project, load_project, read_toml
from shared.testing.mistakes import write_answer

# mutmut forces the branch of a conditional expression only; here that of an `if` too
OPERATORS: OPERATORS_TYPE = [*mutation_operators, (cst.If, operator_if_exp)]
# not changed: annotations, docstrings, error messages; what only linters and type checkers read
NOISE = m.Annotation() | m.Raise() | m.Expr(m.SimpleString() | m.ConcatenatedString())
ALIAS = m.Assign([m.AssignTarget(m.Name(m.MatchRegex(r"__all__|[A-Z]\w*[a-z]\w*")))])
SHORTEST_REASON = 12

Key = tuple[str, str, str]  # file, was, now
Change = tuple[cst.CSTNode, cst.CSTNode]


@dataclass(frozen=True)
class Mutant:
    """A module with one small change."""

    key: Key  # the changed lines are stripped, and joined by a space
    line: int
    source: str

    def __str__(self) -> str:
        """Return the entry for equivalent.toml; JSON's strings are TOML's too."""
        rows = zip(("file", "was", "now", "reason"), (*self.key, ""), strict=True)
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in rows]
        return "\n".join([f"[[mutant]]  # line {self.line}", *lines, ""])


def find_changes(module: cst.Module) -> list[Change]:
    """Find what can be changed: a node, and another in its place."""
    statements = [node for node in module.body if not m.matches(node, m.SimpleStatementLine([ALIAS]))]
    return [change for statement in statements for change in _changes(statement)]


def _changes(node: cst.CSTNode) -> Iterator[Change]:
    if m.matches(node, NOISE):
        return
    for kind, operator in OPERATORS:
        if isinstance(node, kind):
            yield from ((node, new) for new in operator(node))
    for child in node.children:
        yield from _changes(child)


def make_mutant(file: str, module: cst.Module, change: Change) -> Mutant:
    """Apply one change to a module."""
    source = cst.ensure_type(module.deep_replace(*change), cst.Module).code
    before, after = module.code.splitlines(), source.splitlines()
    start = len(os.path.commonprefix([before, after]))  # noqa: RUF071 # of lines, not of characters
    end = len(os.path.commonprefix([before[start:][::-1], after[start:][::-1]]))  # noqa: RUF071
    was, now = (" ".join(map(str.strip, lines[start : len(lines) - end])) for lines in (before, after))
    return Mutant((file, was, now), start + 1, source)


def read_equivalent(project: Project) -> set[Key]:
    """Read which changes nobody can notice; ValueError shows an entry that is not complete."""
    entries = read_toml(project.folder / "tests" / "equivalent.toml").get("mutant", [])
    for entry in entries:
        if set(entry) != {"file", "was", "now", "reason"} or len(entry["reason"]) < SHORTEST_REASON:
            raise ValueError(
                f"equivalent.toml: file, was, now and a reason of {SHORTEST_REASON} characters are needed: {entry}"
            )
    return {(entry["file"], entry["was"], entry["now"]) for entry in entries}


def run_tests(project: Project, answer: Path, *options: str) -> int:
    """Run the tests on the files in folder `answer`; 0 says that they pass."""
    with (
        contextlib.chdir(project.folder),
        contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.redirect_stderr(said),
    ):
        return pytest.main([f"--practice={answer}", "-q", "--tb=no", "-pno:cacheprovider", *options])


def warm_up(project: Project) -> None:
    """Import here what the tests import: each child then imports only the project and its tests again."""
    path = list(sys.path)
    run_tests(project, project.folder, "--collect-only")
    sys.path[:] = path
    tests = {path.stem for path in (project.folder / "tests").rglob("*.py")}
    for name in {"conftest", *project.modules, *tests} & set(sys.modules):
        del sys.modules[name]


def own_tests(project: Project, file: str) -> list[str]:
    """Name the test files that have a further module in their name: they are asked first, which is quicker."""
    if file not in project.further_sources:
        return []
    found = (project.folder / "tests").rglob(f"test_*{Path(file).stem}*.py")
    return [str(path.relative_to(project.folder)) for path in sorted(found)]


def survives(project: Project, mutant: Mutant, limit_s: float | None = None) -> bool:
    """Whether the tests pass on the reference with `mutant` in it, in a process of their own and within `limit_s`."""
    with tempfile.TemporaryDirectory() as folder:
        write_answer(project, Path(folder), further=True)
        Path(folder, mutant.key[0]).write_text(mutant.source, encoding="utf-8")
        own = own_tests(project, mutant.key[0])

        def run() -> None:
            importlib.reload(
                forkserver
            )  # one that runs is the parent's: a child that needs one starts its own
            code = run_tests(project, Path(folder), "-x", *own) if own else 0
            os._exit(code or run_tests(project, Path(folder), "-x"))  # waits for no thread

        child = multiprocessing.get_context("fork").Process(target=run)
        child.start()
        child.join(limit_s)
        child.kill()
        child.join()
        return child.exitcode == 0


def judge(project: Project, file: str, equivalent: set[Key], limit_s: float, sample: int = 0) -> set[Key]:
    """Print what survives in one module, and its score; return all that survives. With `sample`, try so many at random."""
    module = cst.parse_module((project.folder / file).read_text(encoding="utf-8"))
    changes, survivors = find_changes(module), []
    total = len(changes)
    if sample and sample < total:
        changes = random.Random(file).sample(changes, sample)  # the same ones each time
    for number, change in enumerate(changes, start=1):
        mutant = make_mutant(file, module, change)
        if sys.stderr.isatty():
            print(f"{file}: {number} of {len(changes)}", end="\r", file=sys.stderr)
        if survives(project, mutant, limit_s):
            survivors.append(mutant.key)
            if mutant.key not in equivalent:
                print(mutant, flush=True)
    excused = sum(key in equivalent for key in survivors)
    killed, judged = len(changes) - len(survivors), len(changes) - excused
    of = f", a sample of {total}" if len(changes) < total else ""
    print(
        f"{file}: {killed} of {judged} killed ({killed / max(judged, 1):.1%}), {excused} more are equivalent{of}",
        flush=True,
    )
    return set(survivors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the tests of a project; return 1 where something is left to do."""
    parser = argparse.ArgumentParser(prog="nox -s mutate --")
    parser.add_argument("project")
    parser.add_argument("module", nargs="*", help="by default all of them")
    parser.add_argument("--list", action="store_true", help="only count the changes")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="try N changes of each module")
    options = parser.parse_args(arguments)
    if sys.platform in ("win32", "darwin"):
        parser.error(
            "NOT RUN: a child is a fork that has torch loaded already, which Windows and macOS do not allow"
        )
    project = load_project(ROOT / "projects" / options.project)
    if not set(options.module) <= set(project.modules):
        parser.error(f"the modules of {project.name} are {', '.join(project.modules)}")
    written = [module for module in project.modules if module not in project.given]
    files = [f"{module}.py" for module in options.module or written]
    if options.list:
        for file in files:
            module = cst.parse_module((project.folder / file).read_text(encoding="utf-8"))
            print(f"{file}: {len(find_changes(module))} changes")
        return 0
    equivalent = read_equivalent(project)
    warm_up(project)
    start = time.perf_counter()
    for file in files:
        if not survives(
            project, Mutant((file, "", ""), 1, (project.folder / file).read_text(encoding="utf-8"))
        ):
            parser.error(f"the tests of {file} in {project.name} fail before anything is changed")
    limit_s = 10 + 5 * (time.perf_counter() - start) / len(files)
    survivors = set().union(*(judge(project, file, equivalent, limit_s, options.sample) for file in files))
    judged = files if not options.sample else []
    stale = [key for key in equivalent - survivors if key[0] in judged or key[0] not in project.sources]
    for file, was, now in sorted(stale):
        print(f"equivalent.toml lists what does not survive, in {file}:\n- {was}\n+ {now}")
    return int(bool(stale or survivors - equivalent))


if __name__ == "__main__":
    sys.exit(main())
