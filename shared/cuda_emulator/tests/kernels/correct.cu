// Correct kernels: no schedule may make the emulator say anything. Several are what a careless check would report.

extern "C" __global__ void grid_stride_add(const float* a, const float* b, float* c, long long n) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
        c[i] = a[i] + b[i];
}

// 16-byte loads where they fit, single elements for the tail.
extern "C" __global__ void vector_scale(const float* __restrict__ x, float* __restrict__ y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * i + 3 < n) {
        float4 v = reinterpret_cast<const float4*>(x)[i];
        reinterpret_cast<float4*>(y)[i] = make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
    } else {
        for (int k = 4 * i; k < n; k++) y[k] = 2 * x[k];
    }
}

template <int TILE>
__device__ void multiply(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float as[TILE][TILE], bs[TILE][TILE + 1];
    int row = blockIdx.y * TILE + threadIdx.y, col = blockIdx.x * TILE + threadIdx.x;
    float sum = 0.0f;
    for (int start = 0; start < k; start += TILE) {
        as[threadIdx.y][threadIdx.x] = row < m && start + threadIdx.x < k ? a[row * k + start + threadIdx.x] : 0.0f;
        bs[threadIdx.y][threadIdx.x] = start + threadIdx.y < k && col < n ? b[(start + threadIdx.y) * n + col] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE; i++) sum += as[threadIdx.y][i] * bs[i][threadIdx.x];
        __syncthreads();
    }
    if (row < m && col < n) c[row * n + col] = sum;
}
extern "C" __global__ void __launch_bounds__(64) tiled_matmul(const float* a, const float* b, float* c, int m, int n, int k) {
    multiply<8>(a, b, c, m, n, k);
}

extern "C" __global__ void transpose(const float* x, float* y, int rows, int cols) {
    __shared__ float tile[16][17];
    int r = blockIdx.y * 16 + threadIdx.y, c = blockIdx.x * 16 + threadIdx.x;
    if (r < rows && c < cols) tile[threadIdx.y][threadIdx.x] = x[r * cols + c];
    __syncthreads();
    int tr = blockIdx.x * 16 + threadIdx.y, tc = blockIdx.y * 16 + threadIdx.x;
    if (tr < cols && tc < rows) y[tr * rows + tc] = tile[threadIdx.x][threadIdx.y];
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
// Maximum and sum through one buffer, with the barrier that is so easily forgotten.
extern "C" __global__ void softmax_rows(const float* x, float* y, int cols) {
    extern __shared__ float partial[];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const float* row = x + (size_t)blockIdx.x * cols;
    float most = -INFINITY, sum = 0.0f;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) most = fmaxf(most, row[c]);
    for (int d = 16; d > 0; d >>= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
    if (lane == 0) partial[warp] = most;
    __syncthreads();
    for (int i = 0; i < warps; i++) most = fmaxf(most, partial[i]);
    __syncthreads();
    for (int c = threadIdx.x; c < cols; c += blockDim.x) sum += __expf(row[c] - most);
    sum = warp_sum(sum);
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < warps; i++) sum += partial[i];
    for (int c = threadIdx.x; c < cols; c += blockDim.x) y[(size_t)blockIdx.x * cols + c] = __expf(row[c] - most) / sum;
}

// Any number of threads: the last warp's mask names the lanes it has. At its edge a lane reads one that is not in the mask,
// and drops what it got.
extern "C" __global__ void sum_of_any_block(const int* x, int* y, int n) {
    __shared__ int partial[32];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, lanes = min(32u, blockDim.x - 32 * warp);
    const unsigned mask = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
    int v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    for (unsigned d = 16; d > 0; d /= 2) {
        int other = __shfl_down_sync(mask, v, d);
        if (lane + d < lanes) v += other;
    }
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    for (unsigned w = 1; threadIdx.x == 0 && w < (blockDim.x + 31) / 32; w++) v += partial[w];
    if (threadIdx.x == 0) atomicAdd(y, v);
}

// The halves of a warp go different ways, each with its own mask.
extern "C" __global__ void half_warps(const int* x, int* y) {
    int v = x[threadIdx.x];
    if (threadIdx.x % 32 < 16) for (int d = 8; d > 0; d /= 2) v += __shfl_xor_sync(0x0000ffffu, v, d);
    else for (int d = 8; d > 0; d /= 2) v = max(v, __shfl_xor_sync(0xffff0000u, v, d));
    __syncwarp();
    y[threadIdx.x] = v;
}

extern "C" __global__ void three_dimensions(const int* x, int* y, int nx, int ny, int nz) {
    for (int k = blockIdx.z * blockDim.z + threadIdx.z; k < nz; k += gridDim.z * blockDim.z)
        for (int j = blockIdx.y * blockDim.y + threadIdx.y; j < ny; j += gridDim.y * blockDim.y)
            for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < nx; i += gridDim.x * blockDim.x)
                y[(k * ny + j) * nx + i] = 3 * x[(k * ny + j) * nx + i] + i;
}

// Three arrays of three types in one piece of dynamic shared memory.
extern "C" __global__ void gather_if(const double* x, double* y) {
    extern __shared__ __align__(16) unsigned char raw[];
    double* values = reinterpret_cast<double*>(raw);
    int* from = reinterpret_cast<int*>(values + blockDim.x);
    unsigned char* odd = reinterpret_cast<unsigned char*>(from + blockDim.x);
    const int t = threadIdx.x;
    values[t] = x[t], from[t] = t * 7 % blockDim.x, odd[t] = t & 1;
    __syncthreads();
    y[t] = odd[from[t]] ? values[from[t]] : -values[from[t]];
}

// Numbers that are read may wrap, as on a GPU and in NumPy: a sum, a product and its sum, a negation, an atomic.
extern "C" __global__ void wrapping_numbers(const int* x, int* y, int n) {
    __shared__ int total;
    int i = blockIdx.x * blockDim.x + threadIdx.x, sum = 0;
    if (threadIdx.x == 0) total = 0;
    for (int k = 0; k < n; k++) sum += x[k] * x[(k + i) % n];
    __syncthreads();
    atomicSub(&total, sum);
    int other = __shfl_xor_sync(0xffffffffu, sum, 1);
    __syncthreads();
    y[3 * i] = sum + other, y[3 * i + 1] = -x[i], y[3 * i + 2] = total;
}

// All threads that set the flag store the same value, so it does not matter which of them is the last.
extern "C" __global__ void any_above(const float* x, int* y, float limit) {
    __shared__ bool found;
    if (threadIdx.x == 0) found = false;
    __syncthreads();
    if (x[threadIdx.x] > limit) found = true;
    __syncthreads();
    y[threadIdx.x] = found;
}

extern "C" __global__ void histogram(const int* x, int* bins, int n) {
    __shared__ int local[8];
    if (threadIdx.x < 8) local[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i]], 1);
    __syncthreads();
    if (threadIdx.x < 8) atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

// Neighbouring threads write the two halves, or the four bytes, of one word: no race.
extern "C" __global__ void small_elements(const unsigned char* x, unsigned char* y, unsigned short* z) {
    __shared__ unsigned char bytes[64];
    __shared__ unsigned short halves[64];
    bytes[threadIdx.x] = x[threadIdx.x];
    halves[threadIdx.x] = 3 * x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = bytes[63 - threadIdx.x];
    z[threadIdx.x] = halves[threadIdx.x ^ 1];
}

// Lanes of one warp exchange through shared memory; __syncwarp is enough.
extern "C" __global__ void warp_exchange(const float* x, float* y) {
    __shared__ float line[64];
    int warp = threadIdx.x & ~31, lane = threadIdx.x & 31;
    float v = x[threadIdx.x];
    for (int d = 1; d < 32; d *= 2) {
        line[warp + lane] = v;
        __syncwarp();
        float other = line[warp + (lane ^ d)];
        __syncwarp();
        v += other;
    }
    y[threadIdx.x] = v;
}

// The lanes that are left make their mask before they vote and shuffle.
extern "C" __global__ void compact_positive(const float* x, float* y, int* count, int n) {
    int i = threadIdx.x;
    unsigned mask = __ballot_sync(0xffffffffu, i < n);
    if (i >= n) return;
    unsigned positive = __ballot_sync(mask, x[i] > 0.0f);
    int base = 0;
    if (i == 0) base = atomicAdd(count, __popc(positive));
    base = __shfl_sync(mask, base, 0);
    if (x[i] > 0.0f) y[base + __popc(positive & ((1u << i) - 1))] = x[i];
}

__constant__ float weights[3];
__device__ unsigned finished;
extern "C" __global__ void convolve(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i > 0 && i < n - 1) y[i] = weights[0] * x[i - 1] + weights[1] * x[i] + weights[2] * x[i + 1];
    else if (i < n) y[i] = x[i];
}

// The last block to finish adds up what all have left in global memory.
extern "C" __global__ void sum_by_last_block(const float* x, float* partial, float* y, unsigned* ticket, int n) {
    __shared__ float sums[2];
    __shared__ bool last;
    float v = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sums[0] + sums[1];
        __threadfence();
        last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float total = 0.0f;
        for (int b = 0; b < gridDim.x; b++) total += partial[b];
        *y = total;
    }
}

extern "C" __global__ void scan(const int* x, int* y) {
    __shared__ int buffer[2][64];
    int from = 0;
    buffer[0][threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (int d = 1; d < 64; d *= 2) {
        buffer[1 - from][threadIdx.x] =
            buffer[from][threadIdx.x] + (threadIdx.x >= d ? buffer[from][threadIdx.x - d] : 0);
        from = 1 - from;
        __syncthreads();
    }
    y[threadIdx.x] = buffer[from][threadIdx.x];
}

extern "C" __global__ void count_negative(const float* x, int* y) {
    int n = __syncthreads_count(x[threadIdx.x] < 0.0f);
    int any = __syncthreads_or(x[threadIdx.x] > 2.0f), all = __syncthreads_and(x[threadIdx.x] > -9.0f);
    if (threadIdx.x == 0) y[0] = n, y[1] = any, y[2] = all;
}

template <typename T>
__global__ void fill(T* y, T value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = value;
}
template __global__ void fill<double>(double*, double, int);
template __global__ void fill<short>(short*, short, int);

// A window of blocks of a grid over more than 2^31 elements.
extern "C" __global__ void fill_huge(signed char* y, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = (signed char)(i % 100);
}
