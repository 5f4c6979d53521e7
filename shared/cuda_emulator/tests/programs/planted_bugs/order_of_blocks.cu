// Takes the order in which the blocks come to an atomic for that of their numbers.
#include <cstdio>

__global__ void sums(const int* x, int* out, int* next) {
    int sum = __reduce_add_sync(0xffffffff, x[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x == 0) out[atomicAdd(next, 1)] = sum;  // BUG
}

int main() {
    const int blocks = 6, n = 32 * blocks;
    int x[n], out[blocks];
    for (int i = 0; i < n; i++) x[i] = i / 32;
    int *d_x, *d_out, *d_next;
    cudaMalloc(&d_x, sizeof x);
    cudaMalloc(&d_out, sizeof out);
    cudaMalloc(&d_next, sizeof(int));
    cudaMemcpy(d_x, x, sizeof x, cudaMemcpyHostToDevice);
    cudaMemset(d_next, 0, sizeof(int));
    sums<<<blocks, 32>>>(d_x, d_out, d_next);
    cudaMemcpy(out, d_out, sizeof out, cudaMemcpyDeviceToHost);
    for (int b = 0; b < blocks; b++) printf("sum of block %d: %d\n", b, out[b]);
    cudaFree(d_x);
    cudaFree(d_out);
    cudaFree(d_next);
    return 0;
}
