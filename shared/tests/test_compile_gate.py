"""The compile gate: what the compiler says against a kernel reaches the one who wrote it."""

import pytest

from shared.testing import compile_gate


def test_what_ptxas_says_is_shown(tmp_path, monkeypatch):
    """A bare CalledProcessError dropped it."""
    ptxas = tmp_path / "ptxas"
    ptxas.write_text(
        "#!/bin/sh\necho \"ptxas fatal: Unsupported .version 9.2; current version is '9.0'\" >&2\nexit 255\n"
    )
    ptxas.chmod(0o755)
    monkeypatch.setattr(compile_gate, "find_nvcc", lambda: tmp_path / "nvcc")
    monkeypatch.setattr(compile_gate, "nvcc_version", lambda: "13.0.88")
    with pytest.raises(
        AssertionError,
        match=r"ptxas of CUDA 13\.0\.88 refuses add\.ptx:\nptxas fatal: Unsupported \.version 9\.2",
    ):
        compile_gate.assemble(tmp_path / "add.ptx", "sm_90a")
