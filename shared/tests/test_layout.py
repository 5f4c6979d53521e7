"""The layout check, where it compares projects."""

from __future__ import annotations

import importlib.util

from shared.projects import ROOT, load_project
from shared.tests.conftest import write_project

SPEC = importlib.util.spec_from_file_location("check_layout", ROOT / "ci" / "check_layout.py")
check_layout = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_layout)


def project(folder, given: str):
    write_project(folder)
    own = folder / "pyproject.toml"
    own.write_text(own.read_text().replace("order =", 'given = ["plumbing"]\norder ='))
    (folder / "plumbing.py").write_text(given)
    return load_project(folder)


def test_a_given_module_is_the_same_in_all_projects(tmp_path):
    one, two = project(tmp_path / "one", "x = 1\n"), project(tmp_path / "two", "x = 1\n")
    assert list(check_layout.given_problems([one, two])) == []
    (two.folder / "plumbing.py").write_text("x = 1 \n")
    assert list(check_layout.given_problems([one, two])) == [
        "plumbing.py differs in one and two: it must be the same in all projects"
    ]
    (two.folder / "plumbing.py").unlink()
    assert "there is no plumbing.py" in "".join(check_layout.given_problems([one, two]))


def test_a_core_kernel_exists(tmp_path):
    one = project(tmp_path / "one", "x = 1\n")
    own = one.folder / "pyproject.toml"
    own.write_text(own.read_text().replace("order =", 'core_kernels = ["axis"]\norder ='))
    (problem,) = check_layout.given_problems([load_project(one.folder)])
    assert problem == "one: core_kernels names axis, but there is no kernels/axis.cu"
