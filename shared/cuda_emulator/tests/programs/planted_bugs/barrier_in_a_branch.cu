// Lanes of one warp wait at a barrier that the others do not come to.
#include <cstdio>
#include <vector>

__global__ void smooth(const float* x, float* y, int n) {
    __shared__ float tile[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        tile[threadIdx.x] = x[i];
        __syncthreads();  // BUG
        float left = threadIdx.x > 0 ? tile[threadIdx.x - 1] : tile[threadIdx.x];
        y[i] = (left + tile[threadIdx.x]) / 2;
    } else {
        tile[threadIdx.x] = 0;
        __syncthreads();  // BUG
    }
}

int main() {
    const int n = 100;
    std::vector<float> x(n, 3.0f), y(n);
    float *d_x, *d_y;
    cudaMalloc(&d_x, n * sizeof(float));
    cudaMalloc(&d_y, n * sizeof(float));
    cudaMemcpy(d_x, x.data(), n * sizeof(float), cudaMemcpyHostToDevice);
    smooth<<<2, 64>>>(d_x, d_y, n);
    cudaMemcpy(y.data(), d_y, n * sizeof(float), cudaMemcpyDeviceToHost);
    printf("%s\n", y == x ? "PASSED" : "FAILED");
    cudaFree(d_x);
    cudaFree(d_y);
    return y != x;
}
