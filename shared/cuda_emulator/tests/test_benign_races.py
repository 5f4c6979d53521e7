"""Races by the letter that do no harm: silent, or a warning; and their twins, which are errors under every schedule."""

from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.launch import DriverError, Module

FILE = Path(__file__).parent / "kernels" / "benign_races.cu"
F32, F64, I32 = np.float32, np.float64, np.int32
pytestmark = pytest.mark.usefixtures("schedule")


@pytest.fixture(scope="module")
def kernels() -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(FILE)


def marked(kernel: str, mark: str) -> set[int]:
    """Return the lines of a kernel that carry a mark."""
    lines = FILE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f" {kernel}(" in line)
    end = next(i for i in range(start, len(lines)) if lines[i].startswith("}") or lines[i].endswith("; }"))
    return {i + 1 for i in range(start, end + 1) if f"// {mark}" in lines[i]}


def check_warning(kernel: str, words: str) -> None:
    """Check that the launch has warned, of this kernel's lines only, once for each."""
    found = cuda_emulator.warnings()
    lines = [warning.line for warning in found]
    assert {warning.kind for warning in found} == {"benign race"}
    assert set(lines) <= marked(kernel, "WARNS")
    assert len(lines) == len(set(lines))
    assert all(words in warning.message for warning in found)


def check_race(kernels: Module, kernel: str, grid: int, block: int, *arguments: np.ndarray) -> None:
    """Check that the launch is an error at one of the kernel's marked lines."""
    with pytest.raises(DriverError, match="memory race") as caught:
        kernels.launch(kernel, grid, block, *arguments)
    (report,) = cuda_emulator.reports()
    assert (report.kind, report.code) == ("race", 719)
    assert report.line in marked(kernel, "BUG"), str(caught.value)
    assert " a atomic" not in report.message


class TestCompareAndSwap:
    @pytest.mark.parametrize(("grid", "block"), [(1, 64), (3, 32), (64, 1)])
    def test_sum(self, kernels, grid, block):
        x, sums = np.arange(grid * block, dtype=F64), np.zeros(grid)
        kernels.launch("sum_by_cas", grid, block, x, total := np.zeros(1))
        kernels.launch("sum_by_cas_in_shared_memory", grid, block, x, sums)
        assert total[0] == x.sum()
        np.testing.assert_array_equal(sums, x.reshape(grid, block).sum(1))
        assert not cuda_emulator.warnings()

    @pytest.mark.parametrize(("grid", "block"), [(1, 64), (3, 32)])
    def test_guess_in_each_turn(self, kernels, rng, grid, block):
        x, which = rng.integers(1, 99, (2, grid * block)).astype(I32) % (grid * block)
        kernels.launch("most_of_some", grid, block, x, which, most := np.zeros(1, I32))
        assert most[0] == x[which].max()
        assert not cuda_emulator.warnings()

    def test_lanes_guess_together(self, kernels):
        kernels.launch("guesses_of_a_warp", 2, 64, total := np.zeros(1, I32))
        assert total[0] == 128 * 32
        assert not cuda_emulator.warnings()

    def test_nothing_to_do(self, kernels):
        x = np.arange(96, dtype=F32) * 37 % 64
        kernels.launch("most_by_cas", 3, 32, x, most := np.zeros(1, F32))
        assert most[0] == x.max()
        check_warning("most_by_cas", "a guess that a CAS loop verifies")

    @pytest.mark.parametrize(
        "kernel",
        [
            "reads_the_sum_of_others",
            "reads_the_sum_of_others_twice",
            "takes_while_there_are_some",
            "swaps_for_what_it_has_not_read",
            "looks_before_it_guesses",
            "guess_in_shared_memory_goes_elsewhere",
        ],
    )
    @pytest.mark.parametrize(("grid", "block"), [(1, 64), (64, 1)])
    def test_no_guess(self, kernels, kernel, grid, block):
        if block == 1 and "shared" in kernel:
            grid, block = 1, 33
        x = np.arange(64, dtype=I32)
        check_race(kernels, kernel, grid, block, x, np.zeros(1, I32), np.zeros(64, I32))


def graph(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return four edges for each of n nodes, and how far each is from node 0 (-1: no way)."""
    edges = rng.integers(0, n, (n, 4)).astype(I32)
    distance = np.full(n, -1, I32)
    distance[0] = level = 0
    while (distance == level).any():
        reached = edges[distance == level]
        distance[reached[distance[reached] == -1]] = level = level + 1
    return edges, distance


class TestTestThenSet:
    @pytest.mark.parametrize("block", [32, 64, 16])
    def test_breadth_first_search(self, kernels, rng, block):
        edges, expected = graph(192, rng)
        distance, changed, level = np.full(192, -1, I32), np.ones(1, I32), 0
        distance[0] = 0
        while changed[0]:
            changed[0] = 0
            kernels.launch("next_level", 192 // block, block, edges, distance, changed, I32(192), I32(level))
            level += 1
        np.testing.assert_array_equal(distance, expected)
        found = cuda_emulator.warnings()
        assert {warning.kind for warning in found} == {"benign race"}
        assert {warning.line for warning in found} <= marked("next_level", "WARNS")

    def test_flags_of_bytes(self, kernels, rng):
        edges, now, seen = graph(128, rng)[0], rng.integers(0, 2, 128).astype(bool), np.zeros(128, bool)
        kernels.launch("visit", 2, 64, edges, now, seen, I32(128))
        assert seen[edges[now]].all()
        assert seen.sum() == np.unique(edges[now]).size
        check_warning("visit", "all write one and the same value")

    def test_found(self, kernels):
        x, found = np.arange(128, dtype=I32) % 19, np.zeros(1, I32)
        kernels.launch("stops_when_found", 4, 32, x, found)
        assert found[0] == 1
        check_warning("stops_when_found", "all write one and the same value")

    @pytest.mark.parametrize(
        "kernel",
        [
            "numbers_what_it_finds",
            "one_is_the_most",
            "stores_what_it_tests",
            "sums_what_it_tests",
            "hands_on_what_it_tests",
            "keeps_what_it_tests",
            "two_values",
            "adds_its_neighbour",
        ],
    )
    @pytest.mark.parametrize(("grid", "block"), [(1, 64), (8, 8)])
    def test_another_use(self, kernels, kernel, grid, block):
        x = np.full(64, 5, I32) if kernel == "one_is_the_most" else np.arange(64, dtype=I32) % 19
        check_race(kernels, kernel, grid, block, x, np.zeros(2, I32), np.zeros(64, I32))


class TestReadShuffleWrite:
    @pytest.mark.parametrize(
        "kernel", ["sums_of_warps", "sums_of_warps_in_global_memory", "sums_of_warps_with_syncwarp"]
    )
    def test_sums(self, kernels, rng, kernel):
        x, y = rng.integers(1, 99, 64).astype(I32), np.zeros(64, I32)
        kernels.launch(kernel, 1, 64, x.copy(), y)
        np.testing.assert_array_equal(y, np.repeat(x.reshape(2, 32).sum(1), 32))
        if kernel.endswith("syncwarp"):
            assert not cuda_emulator.warnings()
        else:
            check_warning(kernel, "a shuffle orders no memory: __syncwarp() is missing")

    @pytest.mark.parametrize(
        "kernel",
        [
            "reads_again_after_the_shuffle",
            "the_other_warp_reads",
            "half_of_the_warp_shuffles",
            "writes_shuffles_and_writes",
        ],
    )
    def test_not_met(self, kernels, kernel):
        check_race(kernels, kernel, 1, 64, np.arange(1, 65, dtype=I32), np.zeros(64, I32))
