// One of the arrays has never been brought to the device.
#include <cstdio>
#include <vector>

__global__ void axpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];  // BUG
}

int main() {
    const int n = 256;
    std::vector<float> x(n, 1.0f), y(n, 2.0f);
    float* d_y;
    cudaMalloc(&d_y, n * sizeof(float));
    cudaMemcpy(d_y, y.data(), n * sizeof(float), cudaMemcpyHostToDevice);
    axpy<<<2, 128>>>(3.0f, x.data(), d_y, n);
    cudaMemcpy(y.data(), d_y, n * sizeof(float), cudaMemcpyDeviceToHost);
    printf("%g %s\n", y[0], y[0] == 5.0f ? "PASSED" : "FAILED");
    cudaFree(d_y);
    return y[0] != 5.0f;
}
