// Keeps the positive numbers: a counter per block, one atomic per block for its place. The order is left open, so the host sorts.
#include <algorithm>
#include <cassert>
#include <cstdio>
#include <vector>

__global__ void keep_positive(const int* in, int n, int* out, int* count) {
    __shared__ int kept, base;
    if (threadIdx.x == 0) kept = 0;
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x, place = -1;
    if (i < n && in[i] > 0) place = atomicAdd(&kept, 1);
    __syncthreads();
    if (threadIdx.x == 0) base = atomicAdd(count, kept);
    __syncthreads();
    if (place >= 0) out[base + place] = in[i];
}

// The same by prefix sums of votes in each warp: blocks of 32 threads.
__global__ void keep_positive_by_vote(const int* in, int n, int* out, int* count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, base = 0;
    bool keep = i < n && in[i] > 0;
    unsigned votes = __ballot_sync(0xffffffff, keep);
    if (threadIdx.x == 0) base = atomicAdd(count, __popc(votes));
    base = __shfl_sync(0xffffffff, base, 0);
    if (keep) out[base + __popc(votes & ((1u << threadIdx.x) - 1))] = in[i];
}

int main() {
    const int n = 777;
    std::vector<int> in(n), expected;
    for (int i = 0; i < n; i++) in[i] = i * 7919 % 1009 - 500;
    std::copy_if(in.begin(), in.end(), std::back_inserter(expected), [](int v) { return v > 0; });
    std::sort(expected.begin(), expected.end());

    int *d_in, *d_out, *d_count;
    assert(cudaMalloc(&d_in, n * sizeof(int)) == cudaSuccess);
    assert(cudaMalloc(&d_out, n * sizeof(int)) == cudaSuccess);
    assert(cudaMalloc(&d_count, sizeof(int)) == cudaSuccess);
    cudaMemcpy(d_in, in.data(), n * sizeof(int), cudaMemcpyHostToDevice);
    for (bool vote : {false, true}) {
        int count;
        cudaMemset(d_count, 0, sizeof(int));
        if (vote) keep_positive_by_vote<<<(n + 31) / 32, 32>>>(d_in, n, d_out, d_count);
        else keep_positive<<<(n + 127) / 128, 128>>>(d_in, n, d_out, d_count);
        cudaMemcpy(&count, d_count, sizeof(int), cudaMemcpyDeviceToHost);
        std::vector<int> out(count);
        cudaMemcpy(out.data(), d_out, count * sizeof(int), cudaMemcpyDeviceToHost);
        std::sort(out.begin(), out.end());
        printf("%d of %d kept: %s\n", count, n, out == expected ? "PASSED" : "FAILED");
        if (out != expected) return 1;
    }
    cudaFree(d_in);
    cudaFree(d_out);
    cudaFree(d_count);
    return 0;
}
