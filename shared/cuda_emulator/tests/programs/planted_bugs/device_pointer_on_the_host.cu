// The host reads the result where only the device can.
#include <cstdio>

__global__ void answer(int* x) { *x = 42; }

int main() {
    int* d_x;
    cudaMalloc(&d_x, sizeof(int));
    answer<<<1, 1>>>(d_x);
    cudaDeviceSynchronize();
    printf("%d\n", *d_x);  // BUG
    cudaFree(d_x);
    return 0;
}
