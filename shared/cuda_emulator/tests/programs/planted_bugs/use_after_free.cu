// The buffer of the first step is freed before the second step reads it.
#include <cstdio>

__global__ void fill(int* x) { x[threadIdx.x] = threadIdx.x; }
__global__ void square(const int* x, int* y) {
    y[threadIdx.x] = x[threadIdx.x] * x[threadIdx.x];  // BUG
}

int main() {
    int *d_x, *d_y, y[32] = {0};
    cudaMalloc(&d_x, 32 * sizeof(int));
    cudaMalloc(&d_y, 32 * sizeof(int));
    fill<<<1, 32>>>(d_x);
    cudaFree(d_x);
    square<<<1, 32>>>(d_x, d_y);
    cudaMemcpy(y, d_y, sizeof y, cudaMemcpyDeviceToHost);
    printf("5 * 5 = %d\n", y[5]);
    cudaFree(d_y);
    return y[5] != 25;
}
