// Two threads that find the same value count it once.
#include <stdio.h>

__global__ void histogram(const int* x, int n, int* h) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) h[x[i]]++;  // BUG
}

int main() {
    const int n = 500, bins = 10;
    int x[n], h[bins], expected[bins] = {0};
    for (int i = 0; i < n; i++) expected[x[i] = i * i % bins]++;
    int *d_x, *d_h;
    cudaMalloc(&d_x, n * sizeof(int));
    cudaMalloc(&d_h, bins * sizeof(int));
    cudaMemcpy(d_x, x, n * sizeof(int), cudaMemcpyHostToDevice);
    cudaMemset(d_h, 0, bins * sizeof(int));
    histogram<<<(n + 99) / 100, 100>>>(d_x, n, d_h);
    cudaMemcpy(h, d_h, bins * sizeof(int), cudaMemcpyDeviceToHost);
    int wrong = 0;
    for (int i = 0; i < bins; i++) {
        printf("%d: %d\n", i, h[i]);
        wrong += h[i] != expected[i];
    }
    cudaFree(d_x);
    cudaFree(d_h);
    return wrong;
}
