// Copies n bytes instead of n floats. No rule is broken, so that only the program itself can say that its result is wrong.
#include <cmath>
#include <cstdio>
#include <vector>

__global__ void root(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = sqrtf(x[i]);
}

int main() {
    const int n = 200;
    std::vector<float> x(n), y(n);
    for (int i = 0; i < n; i++) x[i] = i;
    float *d_x, *d_y;
    cudaMalloc(&d_x, n * sizeof(float));
    cudaMalloc(&d_y, n * sizeof(float));
    cudaMemcpy(d_x, x.data(), n, cudaMemcpyHostToDevice);  // BUG
    root<<<2, 128>>>(d_x, d_y, n);
    cudaMemcpy(y.data(), d_y, n * sizeof(float), cudaMemcpyDeviceToHost);
    int wrong = 0;
    for (int i = 0; i < n; i++)
        if (!(std::fabs(y[i] - std::sqrt(x[i])) < 1e-5f)) wrong++;
    cudaFree(d_x);
    cudaFree(d_y);
    if (wrong) {
        printf("FAILED: %d wrong\n", wrong);
        return 1;
    }
    printf("PASSED\n");
}
