// Bitonic sort: steps within a block in shared memory, the wider ones one launch each.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

__device__ __forceinline__ void order(int& a, int& b, bool up) {
    if ((a > b) == up) {
        int t = a;
        a = b;
        b = t;
    }
}

__global__ void bitonic_step(int* values, int j, int k) {
    unsigned i = threadIdx.x + blockDim.x * blockIdx.x, partner = i ^ j;
    if (partner > i) order(values[i], values[partner], (i & k) == 0);
}

__global__ void bitonic_shared(int* values, int k) {
    __shared__ int s[64];
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    s[threadIdx.x] = values[i];
    __syncthreads();
    for (int j = min(k, 64) / 2; j > 0; j >>= 1) {
        unsigned partner = threadIdx.x ^ j;
        if (partner > threadIdx.x) order(s[threadIdx.x], s[partner], (i & k) == 0);
        __syncthreads();
    }
    values[i] = s[threadIdx.x];
}

int main() {
    const int n = 512, threads = 64;
    std::vector<int> values(n), sorted;
    srand(42);
    for (int& v : values) v = rand() % 1000;
    sorted = values;
    std::sort(sorted.begin(), sorted.end());
    int* d_values;
    cudaMalloc(&d_values, n * sizeof(int));
    cudaMemcpy(d_values, &values[0], n * sizeof(int), cudaMemcpyHostToDevice);
    for (int k = 2; k <= n; k <<= 1) {
        for (int j = k >> 1; j >= threads; j >>= 1) bitonic_step<<<n / threads, threads>>>(d_values, j, k);
        bitonic_shared<<<n / threads, threads>>>(d_values, k);
    }
    cudaMemcpy(&values[0], d_values, n * sizeof(int), cudaMemcpyDeviceToHost);
    cudaFree(d_values);
    bool passed = values == sorted;
    printf("%d ... %d ... %d\nTest %s\n", values[0], values[n / 2], values[n - 1], passed ? "PASSED" : "FAILED");
    return passed ? EXIT_SUCCESS : EXIT_FAILURE;
}
