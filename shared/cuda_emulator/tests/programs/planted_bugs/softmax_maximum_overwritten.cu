// The sum takes the maximum's place before all threads have read it.
#include <cmath>
#include <cstdio>

__global__ void softmax(float* x, int n) {
    __shared__ float s[64];
    int tid = threadIdx.x;
    s[tid] = tid < n ? x[tid] : -INFINITY;
    __syncthreads();
    for (int d = 32; d > 0; d /= 2) {
        if (tid < d) s[tid] = fmaxf(s[tid], s[tid + d]);
        __syncthreads();
    }
    float e = tid < n ? expf(x[tid] - s[0]) : 0;  // BUG
    s[tid] = e;  // BUG
    __syncthreads();
    for (int d = 32; d > 0; d /= 2) {
        if (tid < d) s[tid] += s[tid + d];
        __syncthreads();
    }
    if (tid < n) x[tid] = e / s[0];
}

int main() {
    float x[50], total = 0, *d;
    for (int i = 0; i < 50; i++) x[i] = 0.1f * i;
    cudaMalloc(&d, sizeof x);
    cudaMemcpy(d, x, sizeof x, cudaMemcpyHostToDevice);
    softmax<<<1, 64>>>(d, 50);
    cudaMemcpy(x, d, sizeof x, cudaMemcpyDeviceToHost);
    cudaFree(d);
    for (float v : x) total += v;
    printf("%s\n", fabsf(total - 1) < 1e-4f ? "PASSED" : "FAILED");
    return 0;
}
