"""Cooperative groups inside of a block, under every schedule; the rest is refused by name."""

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator import toolchain
from cuda_emulator.launch import DriverError, Module

I32, F32, U32 = np.int32, np.float32, np.uint32
HEAD = """#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;
"""
SOURCE = (
    HEAD
    + """
// Through shared memory and back, in another thread's order: block.sync() is a barrier.
extern "C" __global__ void reversed(const int* x, int* y) {
    __shared__ int s[96];
    cg::thread_block block = cg::this_thread_block();
    s[block.thread_rank()] = x[block.thread_rank()];
    block.sync();
    y[block.thread_rank()] = s[block.size() - 1 - block.thread_rank()];
    cg::sync(block);
    s[block.thread_rank()] = 0;
}
extern "C" __global__ void numbers(int* y) {
    cg::thread_block block = cg::this_thread_block();
    auto tile = cg::tiled_partition<8>(block);
    auto part = cg::tiled_partition<4>(tile);
    cg::thread_block_tile<4> same = part;
    int* out = y + 12 * (cg::this_grid().thread_rank());
    out[0] = block.thread_rank();
    out[1] = block.num_threads();
    out[2] = block.group_index().x;
    out[3] = block.thread_index().y;
    out[4] = tile.thread_rank();
    out[5] = tile.num_threads();
    out[6] = tile.meta_group_rank();
    out[7] = tile.meta_group_size();
    out[8] = same.thread_rank();
    out[9] = same.meta_group_rank();
    out[10] = same.meta_group_size();
    out[11] = cg::this_grid().block_rank();
}
template <int N>
__device__ void warp_operations(const int* x, int* y, int n) {
    auto tile = cg::tiled_partition<N>(cg::this_thread_block());
    const int i = threadIdx.x, value = x[i];
    y[0 * n + i] = tile.shfl(value, 1);
    y[1 * n + i] = tile.shfl_up(value, 1);
    y[2 * n + i] = tile.shfl_down(value, 2);
    y[3 * n + i] = tile.shfl_xor(value, 1);
    y[4 * n + i] = tile.any(value > 3);
    y[5 * n + i] = tile.all(value > 0);
    y[6 * n + i] = tile.ballot(value > 2);
    y[7 * n + i] = tile.match_any(value % 2);
    int same;
    y[8 * n + i] = tile.match_all(value / 1000, same) + 1000 * same;
    y[9 * n + i] = cg::reduce(tile, value, cg::plus<int>());
    y[10 * n + i] = cg::reduce(tile, value, cg::less<int>());
    y[11 * n + i] = cg::reduce(tile, value, cg::greater<int>());
    y[12 * n + i] = cg::reduce(tile, value, cg::bit_xor<int>());
}
extern "C" __global__ void tiles_of_32(const int* x, int* y, int n) { warp_operations<32>(x, y, n); }
extern "C" __global__ void tiles_of_4(const int* x, int* y, int n) { warp_operations<4>(x, y, n); }

struct Pair {
    double value;
    int index;
};
extern "C" __global__ void largest(const double* x, int* y) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    Pair best = {x[threadIdx.x], (int)threadIdx.x};
    best = cg::reduce(warp, best, [](Pair a, Pair b) { return a.value < b.value ? b : a; });
    if (warp.thread_rank() == 0) y[warp.meta_group_rank()] = best.index;
}
// The lanes of a branch take one number each with one atomic of the first of them.
extern "C" __global__ void compact(const int* x, int* y, int* count) {
    if (x[threadIdx.x] % 3 == 0) {
        cg::coalesced_group active = cg::coalesced_threads();
        int base = 0;
        if (active.thread_rank() == 0) base = atomicAdd(count, (int)active.size());
        y[active.shfl(base, 0) + active.thread_rank()] = x[threadIdx.x];
    }
}
extern "C" __global__ void of_a_branch(int* y) {
    if (threadIdx.x % 3 == 1) {
        cg::coalesced_group odd = cg::coalesced_threads();
        y[threadIdx.x] = cg::reduce(odd, (int)threadIdx.x, cg::plus<int>()) * 100 + odd.ballot(odd.thread_rank() < 2);
        odd.sync();
    } else {
        cg::coalesced_group even = cg::coalesced_threads();
        y[threadIdx.x] = even.shfl_down((int)threadIdx.x, 1) * 100 + even.num_threads();
    }
}
extern "C" __global__ void labels(const int* x, int* y, int n) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    cg::coalesced_group same = cg::labeled_partition(warp, x[threadIdx.x]);
    y[threadIdx.x] = same.thread_rank();
    y[n + threadIdx.x] = same.size();
    y[2 * n + threadIdx.x] = cg::binary_partition(warp, x[threadIdx.x] > 1).size();
}
__device__ int sum(cg::thread_group group, int* scratch, int value) {
    for (int i = group.size() / 2; i > 0; i /= 2) {
        scratch[group.thread_rank()] = value;
        group.sync();
        if (group.thread_rank() < i) value += scratch[group.thread_rank() + i];
        group.sync();
    }
    return value;
}
extern "C" __global__ void any_group(const int* x, int* y) {
    __shared__ int scratch[64];
    cg::thread_block block = cg::this_thread_block();
    const int total = sum(block, scratch, x[threadIdx.x]);
    if (block.thread_rank() == 0) y[0] = total;
    block.sync();
    cg::thread_group tile = cg::tiled_partition(block, 16);
    const int part = sum(tile, scratch + threadIdx.x / 16 * 16, x[threadIdx.x]);
    if (tile.thread_rank() == 0) y[1 + threadIdx.x / 16] = part;
}
extern "C" __global__ void no_sync(const int* x, int* y) {
    __shared__ int s[64];
    auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    s[threadIdx.x] = x[threadIdx.x];
    tile.sync();
    y[threadIdx.x] = s[threadIdx.x ^ 16];  // of the tile beside
}
extern "C" __global__ void sync_in_a_branch(int* y) {
    if (threadIdx.x < 5) cg::this_thread_block().sync();
    else cg::this_thread_block().sync();
    y[threadIdx.x] = 1;
}
"""
)


@pytest.fixture(scope="module")
def module() -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(SOURCE, name="groups.cu")


@pytest.mark.usefixtures("schedule")
class TestGroups:
    def test_block(self, module, rng):
        x = rng.integers(-99, 99, 96).astype(I32)
        y = np.zeros_like(x)
        module.launch("reversed", 1, (32, 3), x, y)
        np.testing.assert_array_equal(y, x[::-1])

    def test_ranks_and_sizes(self, module):
        y = np.zeros((2, 48, 12), I32)
        module.launch("numbers", 2, (16, 3), y)
        block, i = np.indices((2, 48))
        expected = [i, 48, block, i // 16, i % 8, 8, i // 8, 6, i % 4, i % 8 // 4, 2, block]
        np.testing.assert_array_equal(y, np.stack([np.broadcast_to(v, i.shape) for v in expected], 2))

    @pytest.mark.parametrize("size", [32, 4])
    def test_tiles(self, module, rng, size):
        n = 64
        x = rng.integers(1, 9, n).astype(I32)
        y = np.zeros((13, n), I32)
        module.launch(f"tiles_of_{size}", 1, n, x, y, I32(n))
        tiles, rank = x.reshape(-1, size), np.arange(size)
        bits = 1 << rank.astype(np.uint64)
        parity = tiles % 2
        expected = [
            np.repeat(tiles[:, 1:2], size, 1),
            tiles[:, np.maximum(rank - 1, 0)],
            tiles[:, np.where(rank + 2 < size, rank + 2, rank)],
            tiles[:, rank ^ 1],
            np.repeat((tiles > 3).any(1, keepdims=True), size, 1),
            np.ones_like(tiles),
            np.repeat(((tiles > 2) @ bits)[:, None], size, 1),
            np.stack([((parity == parity[:, [k]]) @ bits) for k in rank], 1),
            np.full(tiles.shape, int(bits.sum()) + 1000),
            *(np.repeat(op(tiles, axis=1)[:, None], size, 1)
              for op in (np.sum, np.min, np.max, np.bitwise_xor.reduce)),
        ]  # fmt: skip
        np.testing.assert_array_equal(
            y.view(U32), np.stack(expected).astype(np.uint64).reshape(13, n).astype(U32)
        )

    def test_reduction_of_structs(self, module, rng):
        x, y = rng.standard_normal(96), np.zeros(3, I32)
        module.launch("largest", 1, 96, x, y)
        np.testing.assert_array_equal(y, x.reshape(3, 32).argmax(1) + 32 * np.arange(3))

    def test_compaction(self, module, rng):
        x = rng.integers(0, 99, 100).astype(I32)
        y, count = np.zeros_like(x), np.zeros(1, I32)
        module.launch("compact", 1, 100, x, y, count)
        assert count[0] == (x % 3 == 0).sum()
        assert sorted(y[: count[0]]) == sorted(x[x % 3 == 0])

    def test_lanes_of_a_branch(self, module):
        y = np.zeros(32, I32)
        module.launch("of_a_branch", 1, 32, y)
        i = np.arange(32)
        following = np.where(i % 3 == 0, i + 2, i + 1)
        following[30] = 30
        expected = np.where(i % 3 == 1, i[i % 3 == 1].sum() * 100 + 3, following * 100 + (i % 3 != 1).sum())
        expected[30] = 3000 + (i % 3 != 1).sum()
        np.testing.assert_array_equal(y, expected)

    def test_partitions_by_label(self, module, rng):
        x = rng.integers(0, 4, 64).astype(I32)
        y = np.zeros((3, 64), I32)
        module.launch("labels", 1, 64, x, y, I32(64))
        for warp in (slice(0, 32), slice(32, 64)):
            v = x[warp]
            np.testing.assert_array_equal(y[0, warp], [(v[:i] == v[i]).sum() for i in range(32)])
            np.testing.assert_array_equal(y[1, warp], [(v == label).sum() for label in v])
            np.testing.assert_array_equal(y[2, warp], [((v > 1) == (label > 1)).sum() for label in v])

    def test_any_group(self, module, rng):
        x, y = rng.integers(-99, 99, 64).astype(I32), np.zeros(5, I32)
        module.launch("any_group", 1, 64, x, y)
        np.testing.assert_array_equal(y, [x.sum(), *x.reshape(4, 16).sum(1)])

    def test_a_tile_does_not_wait_for_others(self, module):
        x, y = np.arange(64, dtype=I32), np.zeros(64, I32)
        with pytest.raises(DriverError, match=r"race|uninitialised shared memory"):
            module.launch("no_sync", 1, 64, x, y)

    def test_a_barrier_belongs_to_its_line(self, module):
        """Two calls in the branches of one warp are two barriers, although both are one line of the header."""
        with pytest.raises(DriverError, match="barrier"):
            module.launch("sync_in_a_branch", 1, 32, np.zeros(32, I32))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("cg::this_grid().sync();", r"this_grid\(\)\.sync\(\)"),
        ("cg::sync(cg::this_grid());", r"this_grid\(\)\.sync\(\)"),
        ("cg::this_cluster();", "thread block clusters"),
        ("cg::this_multi_grid();", "grids over several devices"),
        ("cg::tiled_partition<64>(cg::this_thread_block());", "tiles of more than one warp"),
        ("cg::this_thread_block().barrier_arrive();", r"barrier_arrive\(\)"),
    ],
)
def test_the_rest_is_refused_by_name(code, words):
    source = f"{HEAD}__global__ void k() {{ {code} }}"
    with pytest.raises(toolchain.CompileError, match=f"not supported by the CPU emulator: {words}"):
        toolchain.compile_kernels(source, "k.cu")


@pytest.mark.parametrize(
    ("header", "call"), [("memcpy_async", "memcpy_async(g, y, y, 4)"), ("scan", "inclusive_scan(g, 1)")]
)
def test_headers_whose_functions_are_missing(header, call):
    """The include alone is legal: programs have it and do not use it."""
    source = f"#include <cooperative_groups/{header}.h>\nnamespace cg = cooperative_groups;\n__global__ void k(float* y) {{\n"
    toolchain.compile_kernels(source + "}", "k.cu")
    with pytest.raises(
        toolchain.CompileError, match=rf"k\.cu:5:\d+: error: .{call.split('(')[0]}. is not a member of .cg"
    ):
        toolchain.compile_kernels(
            f"{source}auto g = cg::tiled_partition<32>(cg::this_thread_block());\ncg::{call};\n}}", "k.cu"
        )
