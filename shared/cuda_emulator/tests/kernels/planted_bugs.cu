// One bug per kernel. Each line that a report may name is marked "BUG"; test_bugs.py says which bug.
#include <assert.h>

static __device__ __forceinline__ int thread_in_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }

// --- outside the array -----------------------------------------------------------------------------------------------
extern "C" __global__ void no_tail_guard(const float* x, float* y, int n) {
    int i = thread_in_grid();
    y[i] = 2.0f * x[i];  // BUG
}
extern "C" __global__ void off_by_one(float* y, int n) {
    int i = thread_in_grid();
    if (i <= n) y[i] = 1.0f;  // BUG
}
extern "C" __global__ void before_the_start(const float* x, float* y, int n) {
    int i = thread_in_grid();
    if (i < n) y[i] = x[i] - x[i - 1];  // BUG
}
extern "C" __global__ void unsigned_wraps(const float* x, float* y, unsigned n) {
    unsigned i = thread_in_grid();
    if (i < n) y[i] = x[i - 1u];  // BUG
}
extern "C" __global__ void rows_and_columns_swapped(const float* x, float* y, int rows, int cols) {
    int col = threadIdx.x, row = threadIdx.y;
    if (row < rows && col < cols) y[row * cols + col] = x[row * cols + col * rows];  // BUG
}
extern "C" __global__ void past_the_row(const float* x, float* y, int rows, int cols) {
    int row = thread_in_grid();
    if (row >= rows) return;
    float sum = 0.0f;
    for (int c = 0; c <= cols; c++) sum += x[row * cols + c];  // BUG
    y[row] = sum;
}
extern "C" __global__ void null_pointer(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x];  // BUG
}
extern "C" __global__ void far_from_null(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x + 5000];  // BUG
}
extern "C" __global__ void host_pointer(unsigned long long address, float* y) {
    const float* x = reinterpret_cast<const float*>(address);
    y[threadIdx.x] = x[threadIdx.x];  // BUG
}
extern "C" __global__ void after_free(unsigned long long address, float* y) {
    const float* x = reinterpret_cast<const float*>(address);
    y[threadIdx.x] = x[threadIdx.x];  // BUG
}
extern "C" __global__ void shared_index_too_large(float* y) {
    __shared__ float tile[32];
    tile[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x + 1];  // BUG
}
extern "C" __global__ void dynamic_shared_too_small(float* y) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = 1.0f;  // BUG
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
__constant__ float table[4] = {1.0f, 2.0f, 3.0f, 4.0f};
extern "C" __global__ void past_the_constant(float* y) {
    const float* entry = table;
    y[threadIdx.x] = entry[threadIdx.x];  // BUG
}
extern "C" __global__ void before_shared_memory(float* y) {
    __shared__ float tile[32];
    float* mine = tile + threadIdx.x;
    *mine = 1.0f;
    __syncthreads();
    y[threadIdx.x] = mine[-1];  // BUG
}
extern "C" __global__ void local_array_too_small(float* y, int n) {
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int i = 0; i < n; i++) sums[i] += y[i];  // BUG
    for (int i = 0; i < 4; i++) y[i] = sums[i];
}

// --- arithmetic ------------------------------------------------------------------------------------------------------
extern "C" __global__ void index_overflows(float* y, int row, int cols) {
    int i = row * cols + threadIdx.x;  // BUG
    y[i % 32] = 1.0f;
}
extern "C" __global__ void index_sum_overflows(float* y, int base) {
    int i = base + (int)threadIdx.x;  // BUG
    y[i & 31] = 1.0f;
}
extern "C" __global__ void index_overflows_in_a_huge_array(const signed char* x, int* y, int row, int cols) {
    int first = y[0];  // whatever a thread has read may be data; an index shows when it is used
    int i = row * cols;  // BUG
    y[0] = first + x[i + (int)threadIdx.x];
}
extern "C" __global__ void smallest_divided(const int* x, int* y) {
    y[threadIdx.x] = x[0] / x[1];  // BUG
}
extern "C" __global__ void divides_by_zero(int* y, int n) {
    y[threadIdx.x] = 7 / n;  // BUG
}

// --- alignment -------------------------------------------------------------------------------------------------------
extern "C" __global__ void misaligned_vector_load(const float* x, float* y) {
    float4 v = *reinterpret_cast<const float4*>(x + 1 + 4 * threadIdx.x);  // BUG
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void misaligned_vector_of_constants(float* y) {
    *reinterpret_cast<float4*>(y + 1) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);  // BUG
}
extern "C" __global__ void misaligned_shared_load(float* y) {
    __shared__ __align__(16) float tile[66];
    for (int i = threadIdx.x; i < 66; i += 32) tile[i] = 1.0f;
    __syncthreads();
    float2 v = *reinterpret_cast<float2*>(&tile[2 * threadIdx.x + 1]);  // BUG
    y[threadIdx.x] = v.x + v.y;
}

// --- shared memory that nobody wrote ---------------------------------------------------------------------------------
extern "C" __global__ void too_many_partial_sums(float* y) {
    __shared__ float partial[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) partial[warp] = 1.0f;
    __syncthreads();
    if (warp == 0) y[lane] = partial[lane];  // BUG
}
extern "C" __global__ void edge_tile_not_filled(const float* x, float* y, int n) {
    __shared__ float tile[32];
    int i = thread_in_grid();
    if (i < n) tile[threadIdx.x] = x[i];
    __syncthreads();
    if (i < n) y[i] = tile[31 - threadIdx.x];  // BUG
}
extern "C" __global__ void dynamic_never_written(float* y) {
    extern __shared__ float scratch[];
    if (threadIdx.x > 0) scratch[threadIdx.x] = 0.0f;
    __syncthreads();
    y[threadIdx.x] = scratch[threadIdx.x];  // BUG
}

// --- races -----------------------------------------------------------------------------------------------------------
extern "C" __global__ void missing_first_barrier(const float* x, float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];  // BUG
    y[threadIdx.x] = tile[63 - threadIdx.x];  // BUG
}
extern "C" __global__ void garbage_as_an_index(const float* x, float* y) {
    __shared__ int order[64];
    order[63 - threadIdx.x] = threadIdx.x;  // BUG
    y[threadIdx.x] = x[order[threadIdx.x]];  // BUG
}
extern "C" __global__ void missing_second_barrier(const float* x, float* y, int tiles) {
    __shared__ float tile[64];
    float sum = 0.0f;
    for (int t = 0; t < tiles; t++) {
        tile[threadIdx.x] = x[64 * t + threadIdx.x];  // BUG
        __syncthreads();
        sum += tile[63 - threadIdx.x];  // BUG
    }
    y[threadIdx.x] = sum;
}
extern "C" __global__ void two_values_in_one_flag(const float* x, float* y) {
    __shared__ float flag;
    if (x[threadIdx.x] > 0.5f) flag = x[threadIdx.x];  // BUG
    __syncthreads();  // BUG
    y[threadIdx.x] = flag;
}
extern "C" __global__ void tree_without_barrier(const float* x, float* y) {
    __shared__ float sums[64];
    sums[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (int half = 32; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];  // BUG
    }
    if (threadIdx.x == 0) y[0] = sums[0];
}
extern "C" __global__ void warp_without_syncwarp(const float* x, float* y) {
    __shared__ float line[32];
    line[threadIdx.x] = x[threadIdx.x];  // BUG
    y[threadIdx.x] = line[31 - threadIdx.x];  // BUG
}
extern "C" __global__ void shuffle_orders_no_memory(const float* x, float* y) {
    __shared__ float line[32];
    line[threadIdx.x] = x[threadIdx.x];  // BUG
    float other = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
    y[threadIdx.x] = other + line[threadIdx.x ^ 1];  // BUG
}
extern "C" __global__ void histogram_without_atomics(const int* x, int* y) {
    __shared__ int bins[4];
    if (threadIdx.x < 4) bins[threadIdx.x] = 0;
    __syncthreads();
    bins[x[threadIdx.x]] += 1;  // BUG
    __syncthreads();
    if (threadIdx.x < 4) y[threadIdx.x] = bins[threadIdx.x];
}
extern "C" __global__ void atomic_and_plain(int* y) {
    __shared__ int total;
    if (threadIdx.x == 0) total = 0;  // BUG
    atomicAdd(&total, 1);  // BUG
    __syncthreads();
    if (threadIdx.x == 0) y[0] = total;
}
extern "C" __global__ void two_reductions_one_buffer(const float* x, float* y) {
    __shared__ float partial[2];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = x[threadIdx.x], most = x[threadIdx.x];
    for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
    if (lane == 0) partial[warp] = most;
    __syncthreads();
    most = fmaxf(partial[0], partial[1]);  // BUG
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane == 0) partial[warp] = sum;  // BUG
    __syncthreads();
    y[threadIdx.x] = most + partial[0] + partial[1];
}

// --- barriers and warps; the first, the second and the uneven loop are warnings ----------------------------------------------------------------------------------------------
extern "C" __global__ void return_before_barrier(float* y, int n) {
    int i = thread_in_grid();
    if (i >= n) return;
    __shared__ float tile[64];
    tile[threadIdx.x] = 1.0f;
    __syncthreads();  // BUG
    y[i] = tile[threadIdx.x ^ 1];
}
extern "C" __global__ void barrier_in_a_branch(float* y) {
    if (threadIdx.x < 32) {
        __shared__ float ones[32];
        ones[threadIdx.x] = 1.0f;
        __syncthreads();  // BUG
        y[32 + threadIdx.x] = ones[31 - threadIdx.x];
    } else {
        __shared__ float twos[32];
        twos[threadIdx.x - 32] = 2.0f;
        __syncthreads();  // BUG
        y[threadIdx.x - 32] = twos[63 - threadIdx.x];
    }
}
extern "C" __global__ void barrier_in_half_a_warp(float* y) {
    if (threadIdx.x < 16) {
        y[threadIdx.x] = 1.0f;
        __syncthreads();  // BUG
    } else {
        y[threadIdx.x] = 2.0f;
        __syncthreads();  // BUG
    }
}
extern "C" __global__ void counts_those_who_stay(float* y, int n) {
    int t = threadIdx.x;
    if (t >= n) return;
    int even = __syncthreads_count(t % 2 == 0);  // BUG
    int all = __syncthreads_and(t < n), some = __syncthreads_or(t >= n);  // BUG
    int any = __syncthreads_or(t == n - 1), every = __syncthreads_count(1);  // BUG
    if (t == 0) y[0] = even, y[1] = all, y[2] = some, y[3] = any;
    if (t > 3 && t < 8) y[t] = every;
}
extern "C" __global__ void barriers_of_two_kinds(float* y) {
    int any = threadIdx.x < 32 ? __syncthreads_or(1) : __syncthreads_count(1);  // BUG
    y[threadIdx.x] = any;
}
extern "C" __global__ void barrier_in_uneven_loop(float* y) {
    for (int i = threadIdx.x; i < 100; i += 64) {
        y[i] = 1.0f;
        __syncthreads();  // BUG
    }
}
extern "C" __global__ void shuffle_in_a_branch(float* y) {
    float v = threadIdx.x;
    if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffffffu, v, 1);  // BUG
    __syncthreads();
    y[threadIdx.x] = v;
}
extern "C" __global__ void reduction_after_return(const float* x, float* y, int n) {
    if (threadIdx.x >= n) return;
    float v = x[threadIdx.x];
    for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);  // BUG
    if (threadIdx.x == 0) y[0] = v;
}
extern "C" __global__ void block_smaller_than_a_warp(float* y) {
    float v = 1.0f;
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);  // BUG
    y[threadIdx.x] = v;
}
extern "C" __global__ void mask_leaves_out_the_caller(float* y) {
    y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 0);  // BUG
}
extern "C" __global__ void source_outside_the_mask(float* y) {
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 20);  // BUG
}
extern "C" __global__ void different_warp_operations(float* y) {
    float v = 1.0f;
    if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);  // BUG
    else v = __any_sync(0xffffffffu, v > 0.0f);  // BUG
    y[threadIdx.x] = v;
}

// --- others ----------------------------------------------------------------------------------------------------------
extern "C" __global__ void failing_assert(float* y, int n) {
    assert(n > 100);  // BUG
    y[threadIdx.x] = n;
}
extern "C" __global__ void traps(float* y, int n) {
    if (n < 100) __trap();  // BUG
    y[threadIdx.x] = n;
}
extern "C" __global__ void waits_for_ever(volatile int* y) {
    if (threadIdx.x == 0) {
        while (y[0] == 0) {}  // BUG
    }
    __syncthreads();
    y[0] = 1;
}
extern "C" __global__ void halves_for_ever(int* y) {
    float v = y[0];
    for (int half = 16; half > 0; half = (half + 1) / 2) v = v * 0.5f + 1.0f;  // BUG
    y[0] = v;
}
extern "C" __global__ void shuffles_for_ever(int* y) {
    int v = y[0];
    for (int half = 16; half > 0; half = (half + 1) / 2) v ^= __shfl_xor_sync(0xffffffffu, v, half);  // BUG
    y[0] = v;
}
extern "C" __global__ void waits_at_barriers_for_ever(int* y) {
    for (int half = 16; half > 0; half = (half + 1) / 2) __syncthreads();  // BUG
    y[0] = 1;
}
static __device__ __forceinline__ float load(const float* x, int i) {
    return x[i];  // BUG
}
extern "C" __global__ void bug_in_an_inlined_function(const float* x, float* y) {
    y[threadIdx.x] = load(x, threadIdx.x);
}
