# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.5.1"]
# ///
"""One session per project, found in projects/*/pyproject.toml, and the tools that look across them.

`nox` tests everything that this machine can run, `nox -l` lists the sessions in reading order.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from shared.measuring.device import cuda_device_count  # noqa: E402
from shared.projects import Project, load_projects, name_of, read_toml  # noqa: E402

PROJECTS = {project.name: project for project in load_projects(ROOT)}
SHARED_DEV, EMULATOR_DEV = (
    read_toml(ROOT / folder / "pyproject.toml")["dependency-groups"]["dev"]
    for folder in ("shared", "shared/cuda_emulator")
)
EVERYTHING = sorted({*SHARED_DEV, *(package for project in PROJECTS.values() for package in project.dev)})
PRACTICE = ["fsrs", "rich", "watchfiles"]
NUMPY_CORES = [
    "numpy",
    "pytest",
    "pytest-timeout",
    "scipy",
]  # what grades the core of the projects without torch
CONSTRAINTS = ROOT / "ci" / "constraints.txt"
TORCH = "torch==2.13.0"  # has wheels for Python 3.11 to 3.14: Linux, Windows, macOS 14 on arm64
PYCUDA_NEEDS = ["mako", "platformdirs", "pytools"]  # its own wheel is built here
TORCH_CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
CHECKS = ["shared", "cuda_emulator", "lint", "types", "layout"]
# more threads would only wait for each other: sessions share the cores, and a learner has other programs open
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = True
nox.options.sessions = [*PROJECTS, *CHECKS]


def without_pycuda(requirements: Iterable[str]) -> list[str]:
    """Leave out what no index has a wheel of."""
    return [requirement for requirement in requirements if name_of(requirement) != "pycuda"]


def install(session: nox.Session, *packages: str) -> None:
    """Install packages at the versions of ci/constraints.txt; torch without CUDA where there is no CUDA device."""
    names = set(map(name_of, packages))
    arguments, environment = [*without_pycuda(packages), "--constraint", str(CONSTRAINTS)], {}
    wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    if wheels:  # a local torch wheel is meant: name no other index
        environment["UV_FIND_LINKS"] = ",".join(wheels.replace(",", " ").split())
    elif "torch" in names and session.venv_backend == "uv":
        environment["UV_TORCH_BACKEND"] = "auto"
    elif "torch" in names and sys.platform == "linux" and cuda_device_count() == 0:
        arguments += ["--extra-index-url", TORCH_CPU_WHEELS]
    session.install(*arguments, env=environment)
    if "pycuda" in names:
        install_pycuda(session)


def install_pycuda(session: nox.Session) -> None:
    """Install PyCUDA, which comes as source only, from a wheel that is built on first use and kept."""
    if sys.platform != "linux":
        session.log("NOT RUN: CUDA C++ kernels (PyCUDA and the emulator need Linux)")
        return
    wheel = (
        str(session.run("python", "-m", "shared.cuda_emulator.pycuda_wheel", silent=True))
        .strip()
        .splitlines()[-1]
    )
    session.install(wheel, "--constraint", str(CONSTRAINTS))


def add_session(project: Project) -> None:
    """Define the session that installs and tests one project."""

    def test(session: nox.Session) -> None:
        install(session, *project.dev)
        session.chdir(project.folder)
        command = (
            session.posargs
            if session.posargs[:1] == ["python"]
            else ["python", "-m", "pytest", *session.posargs]
        )
        session.run(*command, env=ONE_THREAD)  # nox -s attention -- python demo.py runs that, not the tests

    test.__doc__ = project.description
    tags = ["cpu", *project.tags, *(["gpu"] if project.gpu else [])]
    nox.session(test, name=project.name, tags=tags)


for _project in PROJECTS.values():
    add_session(_project)


@nox.session(tags=["cpu", "gpu"])
def shared(session: nox.Session) -> None:
    """Test the shared tools."""
    install(session, *SHARED_DEV)
    session.chdir("shared")
    session.run("python", "-m", "pytest", *session.posargs, env=ONE_THREAD)


@nox.session(tags=["cpu"])
def cuda_emulator(session: nox.Session) -> None:
    """Test the CUDA device made of the CPU."""
    install(session, *EMULATOR_DEV)
    session.chdir("shared/cuda_emulator")
    session.run("python", "-m", "pytest", *session.posargs, env=ONE_THREAD)


@nox.session(tags=["checks"])
def lint(session: nox.Session) -> None:
    """Check style and format (ruff)."""
    install(session, "ruff")
    for command in (["check"], ["format", "--diff"]):
        session.run("ruff", *command, "projects", "shared")
        session.run("ruff", *command, "--config", "ci/ruff.toml", "noxfile.py", "ci")


@nox.session(tags=["checks"])
def types(session: nox.Session) -> None:
    """Check types (mypy --strict), project by project."""
    install(session, "mypy", *without_pycuda(EVERYTHING))
    for folder in (ROOT / "shared", *(project.folder for project in PROJECTS.values())):
        session.chdir(folder)
        session.run("mypy", "--config-file", str(ROOT / "ci" / "mypy.toml"), ".")


@nox.session(tags=["checks"])
def layout(session: nox.Session) -> None:
    """Check that every project is complete and that no README is out of date."""
    install(session, "rich", "fsrs", "inflect")
    session.run("python", "ci/check_layout.py")


def named_projects(session: nox.Session) -> list[str]:
    """Return the projects on the command line."""
    return [name for name in dict.fromkeys(session.posargs) if name in PROJECTS]


def packages_of_named(session: nox.Session) -> list[str]:
    """Return what the tests of the projects on the command line need."""
    return [package for name in named_projects(session) for package in PROJECTS[name].dev]


@nox.session(default=False)
def catalogue(session: nox.Session) -> None:
    """Record which test catches which mistake, after one was added: nox -s catalogue -- PROJECT."""
    install(session, *packages_of_named(session))
    for name in named_projects(session):
        with session.chdir(PROJECTS[name].folder):
            session.run("python", "-m", "pytest", "--judge=record", "tests/mistakes.toml", env=ONE_THREAD)


@nox.session(default=False)
def mutate(session: nox.Session) -> None:
    """Score the tests of a project by mutants of its modules: nox -s mutate -- PROJECT [MODULE ...]."""
    install(session, "mutmut", *packages_of_named(session))
    session.run("python", "-m", "shared.testing.mutation", *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
def tour(session: nox.Session) -> None:
    """Run the demos on real input and write build/tour/index.html: nox -s tour [-- --project NAME]."""
    install(session, *EVERYTHING)
    session.run("python", "-m", "shared.tour", *session.posargs)


@nox.session(default=False)
def practice(session: nox.Session) -> None:
    """Write a deliverable yourself: nox -s practice [-- PROJECT [--further --watch --hint --reset --solution]]."""
    install(session, *PRACTICE, *packages_of_named(session))
    session.run("python", "-m", "shared.practice", *session.posargs)


@nox.session(default=False)
def debug(session: nox.Session) -> None:
    """Find the mistake in code that is not yours: nox -s debug [-- PROJECT [--hard --hint --reset --give-up]]."""
    install(session, *PRACTICE, *packages_of_named(session))
    session.run("python", "-m", "shared.practice.debug", *session.posargs)


@nox.session(default=False)
def drill(session: nox.Session) -> None:
    """Explain it in thirty seconds: nox -s drill [-- --interview 20 --list --stats --project X --topic T --new N --anki FILE]."""
    interview = any(argument.startswith("--interview") for argument in session.posargs)
    install(
        session,
        "fsrs",
        "genanki",
        "rich",
        *((*NUMPY_CORES, *packages_of_named(session)) if interview else ()),
    )
    session.run("python", "-m", "shared.practice.drill", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure beside the peers and rewrite results/ and the README tables: nox -s bench -- PROJECT [--quick]."""
    named = named_projects(session) or list(PROJECTS)
    options = [argument for argument in session.posargs if argument not in PROJECTS]
    install(session, *SHARED_DEV, *(package for name in named for package in PROJECTS[name].dev))
    for name in named:
        with session.chdir(PROJECTS[name].folder):
            session.run("python", "benchmark.py", *options)
            if not {"--quick", "--practice"} & set(options):
                session.run("python", "demo.py", "--save")
    session.run("python", "-m", "shared.measuring.readme")


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Regenerate ci/constraints.txt, the versions that every session installs."""
    session.install("uv")
    source = Path(session.create_tmp()) / "requirements.in"
    source.write_text(
        "\n".join([*without_pycuda(EVERYTHING), *PYCUDA_NEEDS, "mutmut", "mypy", "ruff", TORCH]) + "\n"
    )
    compiled = session.run(
        *("uv", "pip", "compile", str(source), "--universal", "--python-version", "3.11", "--upgrade"),
        *("--no-header", "--no-annotate", "--quiet"),
        silent=True,
        env={"UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")},
    )
    # torch pins its CUDA packages itself, and its CPU and CUDA builds share one version: no markers for those.
    pins = [
        line
        for line in str(compiled).splitlines()
        if not line.startswith(("nvidia-", "cuda-", "torch==", "#"))
    ]
    lines = ["# Every version that the sessions install. Regenerate with: nox -s lock", *pins, TORCH]
    CONSTRAINTS.write_text("\n".join(lines) + "\n")
