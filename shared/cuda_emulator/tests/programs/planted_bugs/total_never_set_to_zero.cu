// The block's total starts with whatever the shared memory holds.
#include <cstdio>

__global__ void count_even(const int* x, int n, int* result) {
    __shared__ int total;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && x[i] % 2 == 0) atomicAdd(&total, 1);  // BUG
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(result, total);
}

int main() {
    const int n = 1000;
    int x[n], result = 0;
    for (int i = 0; i < n; i++) x[i] = i;
    int *d_x, *d_result;
    cudaMalloc(&d_x, sizeof x);
    cudaMalloc(&d_result, sizeof(int));
    cudaMemcpy(d_x, x, sizeof x, cudaMemcpyHostToDevice);
    cudaMemset(d_result, 0, sizeof(int));
    count_even<<<8, 128>>>(d_x, n, d_result);
    cudaMemcpy(&result, d_result, sizeof(int), cudaMemcpyDeviceToHost);
    printf("%d even numbers: %s\n", result, result == n / 2 ? "PASSED" : "FAILED");
    cudaFree(d_x);
    cudaFree(d_result);
    return result != n / 2;
}
