// The tree assumes that the number of threads is a power of two, and loses elements where it is not.
#include <cstdio>
#include <cstdlib>

__global__ void reduce(const float* x, float* result) {
    extern __shared__ float s[];
    int tid = threadIdx.x;
    s[tid] = x[tid];
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half >>= 1) {  // BUG
        if (tid < half) s[tid] += s[tid + half];
        __syncthreads();
    }
    if (tid == 0) *result = s[0];
}

int main() {
    const int n = 300;
    float x[n], result;
    for (int i = 0; i < n; i++) x[i] = 1;
    float *d_x, *d_result;
    cudaMalloc(&d_x, sizeof x);
    cudaMalloc(&d_result, sizeof(float));
    cudaMemcpy(d_x, x, sizeof x, cudaMemcpyHostToDevice);
    reduce<<<1, n, n * sizeof(float)>>>(d_x, d_result);
    cudaMemcpy(&result, d_result, sizeof result, cudaMemcpyDeviceToHost);
    cudaFree(d_x);
    cudaFree(d_result);
    printf("sum %g, expected %d\n", result, n);
    exit(result == n ? EXIT_SUCCESS : EXIT_FAILURE);
}
