// The sum of an array in four ways: a tree in dynamic shared memory with a second launch, shuffles, atomics, and the last block's sum.
#include <cstdio>
#include <numeric>
#include <vector>

#define CUDA_CHECK(x) check((x), #x, __LINE__)
inline void check(cudaError_t error, const char* call, int line) {
    if (error == cudaSuccess) return;
    fprintf(stderr, "line %d: %s: %s (%s)\n", line, call, cudaGetErrorName(error), cudaGetErrorString(error));
    exit(1);
}

constexpr unsigned FULL = 0xffffffff;

__global__ void tree(const int* x, int* partial, int n) {
    extern __shared__ int sdata[];
    int i = blockIdx.x * blockDim.x * 2 + threadIdx.x;
    int sum = i < n ? x[i] : 0;
    if (i + blockDim.x < n) sum += x[i + blockDim.x];
    sdata[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned s = blockDim.x / 2; s > 0; s >>= 1) {
        if (threadIdx.x < s) sdata[threadIdx.x] += sdata[threadIdx.x + s];
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = sdata[0];
}

__device__ __inline__ int warp_sum(int v) {
    for (int offset = warpSize / 2; offset > 0; offset /= 2) v += __shfl_down_sync(FULL, v, offset);
    return v;
}

__global__ void shuffles(const int* x, int* total, int n) {
    __shared__ int warps[32];
    int lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize, v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = warp_sum(v);
    if (lane == 0) warps[warp] = v;
    __syncthreads();
    v = threadIdx.x < blockDim.x / warpSize ? warps[lane] : 0;
    if (warp == 0) v = warp_sum(v);
    if (threadIdx.x == 0) atomicAdd(total, v);
}

__global__ void atomics(const int* x, int* total, int n) {
    __shared__ int block_total;
    if (threadIdx.x == 0) block_total = 0;
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(&block_total, x[i]);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(total, block_total);
}

__device__ unsigned finished = 0;
__global__ void last_block(const int* x, int* partial, int* total, int n) {
    __shared__ bool last;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int sum = __reduce_add_sync(FULL, i < n ? x[i] : 0);
    if (threadIdx.x == 0) {  // blocks of one warp
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicInc(&finished, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        sum = 0;
        for (int b = threadIdx.x; b < gridDim.x; b += blockDim.x) sum += partial[b];
        sum = warp_sum(sum);
        if (threadIdx.x == 0) *total = sum;
    }
}

int main() {
    const int n = 3001, threads = 128, blocks = (n + 2 * threads - 1) / (2 * threads);
    std::vector<int> x(n);
    for (int i = 0; i < n; i++) x[i] = i % 17 - 5;
    const int expected = std::accumulate(x.begin(), x.end(), 0);
    int *d_x, *d_partial, *d_total;
    CUDA_CHECK(cudaMalloc(&d_x, n * sizeof(int)));
    CUDA_CHECK(cudaMalloc(&d_partial, 128 * sizeof(int)));
    CUDA_CHECK(cudaMalloc(&d_total, sizeof(int)));
    CUDA_CHECK(cudaMemcpy(d_x, x.data(), n * sizeof(int), cudaMemcpyHostToDevice));

    int failures = 0;
    auto report = [&](const char* name) {
        int total = 0;
        CUDA_CHECK(cudaGetLastError());
        CUDA_CHECK(cudaDeviceSynchronize());
        CUDA_CHECK(cudaMemcpy(&total, d_total, sizeof(int), cudaMemcpyDeviceToHost));
        CUDA_CHECK(cudaMemset(d_total, 0, sizeof(int)));
        printf("%s: %d, expected %d: %s\n", name, total, expected, total == expected ? "ok" : "WRONG");
        failures += total != expected;
    };
    CUDA_CHECK(cudaMemset(d_total, 0, sizeof(int)));
    tree<<<blocks, threads, threads * sizeof(int)>>>(d_x, d_partial, n);
    tree<<<1, threads, threads * sizeof(int)>>>(d_partial, d_total, blocks);
    report("tree");
    shuffles<<<4, threads>>>(d_x, d_total, n);
    report("shuffles");
    atomics<<<(n + threads - 1) / threads, threads>>>(d_x, d_total, n);
    report("atomics");
    last_block<<<(n + 31) / 32, 32>>>(d_x, d_partial, d_total, n);
    report("last block");
    CUDA_CHECK(cudaFree(d_x));
    CUDA_CHECK(cudaFree(d_partial));
    CUDA_CHECK(cudaFree(d_total));
    return failures;
}
