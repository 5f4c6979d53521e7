"""What the repository knows about its projects: everything comes from projects/*/pyproject.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOLS = {"conftest", "demo", "benchmark"}  # modules of a project that are not part of the deliverable
PRACTICE_BEGIN = "// practice: begin"  # in a kernel: what stands up to PRACTICE_END is the learner's to write
PRACTICE_END = "// practice: end"


@dataclass(frozen=True)
class Project:
    """One folder under projects/."""

    folder: Path
    description: str
    order: int
    gpu: bool  # its tests need a CUDA device to be complete
    tags: tuple[str, ...]
    topics: dict[str, str]  # line of the study list -> the test, demo or file that shows it
    dependencies: tuple[str, ...]  # what the deliverable imports
    dev: tuple[str, ...]  # what its tests, demo and benchmark import as well

    @property
    def name(self) -> str:
        """Folder, module and nox session share this name."""
        return self.folder.name

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the deliverable's modules, the main one first."""
        others = sorted({path.stem for path in self.folder.glob("*.py")} - TOOLS - {self.name})
        return (self.name, *others)

    @property
    def kernels(self) -> tuple[Path, ...]:
        """Return the CUDA kernels, which a deliverable loads from the folder beside it."""
        return tuple(sorted((self.folder / "kernels").glob("*.cu")))

    @property
    def sources(self) -> tuple[str, ...]:
        """Name the files of the deliverable, which a learner gets as blanks: modules and kernels."""
        kernels = (f"kernels/{kernel.name}" for kernel in self.kernels)
        return (*(f"{module}.py" for module in self.modules), *kernels)

    @property
    def hints(self) -> dict[str, dict[str, str]]:
        """Hints by unit (public function), in reading order; the keys are the units the board shows."""
        return read_toml(self.folder / "tests" / "hints.toml")

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the public functions a learner writes, in reading order."""
        return tuple(self.hints)

    @property
    def wrong(self) -> tuple[Path, ...]:
        """Return the known wrong solutions."""
        folder = self.folder / "tests" / "wrong"
        return tuple(sorted([*folder.glob("*.py"), *folder.glob("*.cu")]))

    @property
    def results(self) -> tuple[Path, ...]:
        """Committed benchmark results, one file per device."""
        return tuple(path for path in sorted(self.folder.glob("results/*.json")) if path.stem != "demo")


@dataclass(frozen=True)
class StudyList:
    """What the projects together must cover: shared/study_list.toml."""

    topics: dict[str, str]  # topic -> its group, in reading order, the planned ones too
    planned: tuple[str, ...]  # topics without a project of their own
    drills: tuple[str, ...]
    deliverables: tuple[str, ...]
    papers: dict[str, str]  # arXiv number -> title


def load_study_list(path: Path = ROOT / "shared" / "study_list.toml") -> StudyList:
    """Read the study list."""
    data = read_toml(path)
    topics = {
        topic: group["name"]
        for group in data["group"]
        for topic in (*group.get("topics", []), *group.get("planned", []))
    }
    return StudyList(
        topics=topics,
        planned=tuple(topic for group in data["group"] for topic in group.get("planned", [])),
        drills=tuple(data["drills"]),
        deliverables=tuple(data["deliverables"]),
        papers={paper["arxiv"]: paper["title"] for paper in data["paper"]},
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing file reads as empty."""
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def load_project(folder: Path) -> Project:
    """Read one project's pyproject.toml."""
    data = read_toml(folder / "pyproject.toml")
    try:
        return _project(folder, data, data["tool"]["groundwork"])
    except KeyError as missing:
        raise ValueError(f"{folder / 'pyproject.toml'} lacks {missing}") from None


def _project(folder: Path, data: dict[str, Any], own: dict[str, Any]) -> Project:
    return Project(
        folder=folder,
        description=data["project"]["description"],
        order=own["order"],
        gpu=own["gpu"],
        tags=tuple(own["tags"]),
        topics=dict(own["topics"]),
        dependencies=tuple(data["project"]["dependencies"]),
        dev=tuple(data["dependency-groups"]["dev"]),
    )


def load_projects(root: Path = ROOT) -> list[Project]:
    """Read every project, in reading order."""
    found = [load_project(path.parent) for path in root.glob("projects/*/pyproject.toml")]
    return sorted(found, key=lambda project: project.order)
