// cudaMemcpy takes the destination first.
#include <cstdio>
#include <cstdlib>

__global__ void add_one(float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += 1.0f;
}

int main() {
    const int n = 100;
    float* x = new float[n]();
    float* d_x;
    cudaMalloc(&d_x, n * sizeof(float));
    cudaMemcpy(d_x, x, n * sizeof(float), cudaMemcpyHostToDevice);
    add_one<<<1, 128>>>(d_x, n);
    cudaMemcpy(d_x, x, n * sizeof(float), cudaMemcpyDeviceToHost);  // BUG
    printf("%s\n", x[0] == 1.0f ? "PASSED" : "FAILED");
    cudaFree(d_x);
    delete[] x;
    return 0;
}
