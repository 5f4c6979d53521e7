// The tree's steps follow each other without a barrier.
#include <cstdio>

#define N 256

__global__ void sum(const int* x, int* result) {
    __shared__ int cache[N];
    cache[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (int i = blockDim.x / 2; i != 0; i /= 2) {
        if (threadIdx.x < i) cache[threadIdx.x] += cache[threadIdx.x + i];  // BUG
    }
    if (threadIdx.x == 0) *result = cache[0];
}

int main() {
    int x[N], result = 0, expected = 0;
    for (int i = 0; i < N; i++) expected += x[i] = i * i % 13;
    int *d_x, *d_result;
    cudaMalloc(&d_x, sizeof(x));
    cudaMalloc(&d_result, sizeof(int));
    cudaMemcpy(d_x, x, sizeof(x), cudaMemcpyHostToDevice);
    sum<<<1, N>>>(d_x, d_result);
    cudaMemcpy(&result, d_result, sizeof(int), cudaMemcpyDeviceToHost);
    printf("%d, expected %d: %s\n", result, expected, result == expected ? "PASSED" : "FAILED");
    cudaFree(d_x);
    cudaFree(d_result);
    return 0;
}
