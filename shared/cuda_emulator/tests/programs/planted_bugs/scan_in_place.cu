// Hillis-Steele with one buffer: a thread may overwrite what its neighbour has yet to read.
#include <cstdio>

__global__ void inclusive_scan(int* x, int n) {
    __shared__ int s[128];
    int tid = threadIdx.x;
    s[tid] = x[tid];
    __syncthreads();
    for (int stride = 1; stride < n; stride *= 2) {
        if (tid >= stride) s[tid] += s[tid - stride];  // BUG
        __syncthreads();
    }
    x[tid] = s[tid];
}

int main() {
    const int n = 128;
    int x[n], y[n];
    for (int i = 0; i < n; i++) x[i] = 1;
    int* d;
    cudaMalloc(&d, sizeof x);
    cudaMemcpy(d, x, sizeof x, cudaMemcpyHostToDevice);
    inclusive_scan<<<1, n>>>(d, n);
    cudaMemcpy(y, d, sizeof y, cudaMemcpyDeviceToHost);
    cudaFree(d);
    for (int i = 0; i < n; i++)
        if (y[i] != i + 1) return printf("FAILED\n"), 1;
    printf("PASSED\n");
    return 0;
}
