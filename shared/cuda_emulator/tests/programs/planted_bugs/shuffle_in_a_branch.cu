// The mask names 32 lanes, but the lanes past the end never come to the shuffle.
#include <cstdio>

__inline__ __device__ float warp_max(float v) {
    for (int offset = 16; offset > 0; offset /= 2) v = fmaxf(v, __shfl_down_sync(0xffffffff, v, offset));  // BUG
    return v;
}
__global__ void largest(const float* x, int n, float* result) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        float v = warp_max(x[i]);
        if (threadIdx.x == 0) result[blockIdx.x] = v;
    }
}

int main() {
    const int n = 50;
    float x[n], result[2];
    for (int i = 0; i < n; i++) x[i] = i;
    float *d_x, *d_result;
    cudaMalloc(&d_x, sizeof(x));
    cudaMalloc(&d_result, sizeof(result));
    cudaMemcpy(d_x, x, sizeof(x), cudaMemcpyHostToDevice);
    largest<<<2, 32>>>(d_x, n, d_result);
    cudaMemcpy(result, d_result, sizeof(result), cudaMemcpyDeviceToHost);
    bool ok = result[0] == 31 && result[1] == 49;
    printf("%s\n", ok ? "PASSED" : "FAILED");
    cudaFree(d_x);
    cudaFree(d_result);
    return !ok;
}
