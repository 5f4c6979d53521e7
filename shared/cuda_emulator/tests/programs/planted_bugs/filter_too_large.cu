// More values are copied into constant memory than it was declared with.
#include <cstdio>

#define RADIUS 2
__constant__ float weights[RADIUS + 1];

__global__ void blur(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < RADIUS || i >= n - RADIUS) return;
    y[i] = weights[0] * x[i];
    for (int r = 1; r <= RADIUS; r++) y[i] += weights[r] * (x[i - r] + x[i + r]);
}

int main() {
    const int n = 128;
    float w[2 * RADIUS + 1] = {0.4f, 0.2f, 0.1f, 0, 0}, x[n], y[n];
    for (int i = 0; i < n; i++) x[i] = 1;
    float *d_x, *d_y;
    cudaMalloc(&d_x, sizeof x);
    cudaMalloc(&d_y, sizeof y);
    cudaMemcpyToSymbol(weights, w, sizeof(w));  // BUG
    cudaMemcpy(d_x, x, sizeof x, cudaMemcpyHostToDevice);
    blur<<<2, 64>>>(d_x, d_y, n);
    cudaMemcpy(y, d_y, sizeof y, cudaMemcpyDeviceToHost);
    printf("%.3f\n", y[5]);
    cudaFree(d_x);
    cudaFree(d_y);
    return 0;
}
