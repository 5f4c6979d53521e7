// Softmax of each row, one block per row: the maximum, the sum, then the division.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <vector>

__global__ void softmax(const float* x, float* y, int cols) {
    extern __shared__ float shared[];
    const float* row = x + blockIdx.x * cols;
    int tid = threadIdx.x;

    float m = -FLT_MAX;
    for (int c = tid; c < cols; c += blockDim.x) m = fmaxf(m, row[c]);
    shared[tid] = m;
    __syncthreads();
    for (int s = blockDim.x / 2; s > 0; s /= 2) {
        if (tid < s) shared[tid] = fmaxf(shared[tid], shared[tid + s]);
        __syncthreads();
    }
    m = shared[0];
    __syncthreads();  // all have read the maximum before the sums go there

    float sum = 0.0f;
    for (int c = tid; c < cols; c += blockDim.x) sum += expf(row[c] - m);
    shared[tid] = sum;
    __syncthreads();
    for (int s = blockDim.x / 2; s > 0; s /= 2) {
        if (tid < s) shared[tid] += shared[tid + s];
        __syncthreads();
    }
    sum = shared[0];
    for (int c = tid; c < cols; c += blockDim.x) y[blockIdx.x * cols + c] = expf(row[c] - m) / sum;
}

void softmax_cpu(const float* x, float* y, int rows, int cols) {
    for (int r = 0; r < rows; r++, x += cols, y += cols) {
        float m = *std::max_element(x, x + cols), sum = 0;
        for (int c = 0; c < cols; c++) sum += y[c] = std::exp(x[c] - m);
        for (int c = 0; c < cols; c++) y[c] /= sum;
    }
}

int main() {
    const int rows = 6, cols = 150, threads = 64;
    std::vector<float> x(rows * cols), y(rows * cols), expected(rows * cols);
    for (int i = 0; i < rows * cols; i++) x[i] = 5 * std::sin(i * 0.7f);
    softmax_cpu(x.data(), expected.data(), rows, cols);

    float *d_x, *d_y;
    cudaMalloc(&d_x, rows * cols * sizeof(float));
    cudaMalloc(&d_y, rows * cols * sizeof(float));
    cudaMemcpy(d_x, x.data(), rows * cols * sizeof(float), cudaMemcpyHostToDevice);
    softmax<<<rows, threads, threads * sizeof(float)>>>(d_x, d_y, cols);
    cudaError_t err = cudaDeviceSynchronize();
    if (err != cudaSuccess) {
        printf("CUDA error: %s\n", cudaGetErrorString(err));
        return -1;
    }
    cudaMemcpy(y.data(), d_y, rows * cols * sizeof(float), cudaMemcpyDeviceToHost);
    for (int i = 0; i < rows * cols; i++)
        if (std::fabs(y[i] - expected[i]) > 1e-5f) {
            printf("mismatch at %d: %f vs %f\n", i, y[i], expected[i]);
            return 1;
        }
    printf("row 0 starts with %.6f %.6f %.6f\nPASSED\n", y[0], y[1], y[2]);
    cudaFree(d_x);
    cudaFree(d_y);
}
