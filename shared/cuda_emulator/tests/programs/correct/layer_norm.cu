// Layer norm: a warp per row, its sizes in a struct that is passed by value.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <memory>

struct Shape {
    int rows, cols;
    float epsilon;
    __host__ __device__ int size() const { return rows * cols; }
};

__inline__ __device__ float sum_of_warp(float v) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) v += __shfl_xor_sync(0xffffffffu, v, mask, 32);
    return v;
}

__global__ void layer_norm(const float* __restrict__ in, float* __restrict__ out, const float* gamma, const float* beta, Shape shape) {
    int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (row >= shape.rows) return;  // a whole warp
    in += row * shape.cols;
    out += row * shape.cols;
    float sum = 0.f, squares = 0.f;
    for (int c = lane; c < shape.cols; c += 32) sum += in[c];
    float mean = sum_of_warp(sum) / shape.cols;
    for (int c = lane; c < shape.cols; c += 32) squares += (in[c] - mean) * (in[c] - mean);
    float scale = rsqrtf(sum_of_warp(squares) / shape.cols + shape.epsilon);
    for (int c = lane; c < shape.cols; c += 32) out[c] = (in[c] - mean) * scale * gamma[c] + beta[c];
}

int main() {
    Shape shape{11, 77, 1e-5f};
    auto in = std::make_unique<float[]>(shape.size()), out = std::make_unique<float[]>(shape.size());
    auto gamma = std::make_unique<float[]>(shape.cols), beta = std::make_unique<float[]>(shape.cols);
    for (int i = 0; i < shape.size(); i++) in[i] = (i * 7919 % 1000) / 250.0f;
    for (int c = 0; c < shape.cols; c++) gamma[c] = 1 + c * 0.01f, beta[c] = c * -0.02f;

    float *d_in, *d_out, *d_gamma, *d_beta;
    cudaMalloc(&d_in, shape.size() * 4);
    cudaMalloc(&d_out, shape.size() * 4);
    cudaMalloc(&d_gamma, shape.cols * 4);
    cudaMalloc(&d_beta, shape.cols * 4);
    cudaMemcpy(d_in, in.get(), shape.size() * 4, cudaMemcpyDefault);
    cudaMemcpy(d_gamma, gamma.get(), shape.cols * 4, cudaMemcpyDefault);
    cudaMemcpy(d_beta, beta.get(), shape.cols * 4, cudaMemcpyDefault);
    const dim3 threads{32, 4};
    layer_norm<<<(shape.rows + 3) / 4, threads>>>(d_in, d_out, d_gamma, d_beta, shape);
    cudaMemcpy(out.get(), d_out, shape.size() * 4, cudaMemcpyDefault);

    double worst = 0;
    for (int r = 0; r < shape.rows; r++) {
        double mean = 0, variance = 0;
        for (int c = 0; c < shape.cols; c++) mean += in[r * shape.cols + c] / shape.cols;
        for (int c = 0; c < shape.cols; c++) variance += pow(in[r * shape.cols + c] - mean, 2) / shape.cols;
        for (int c = 0; c < shape.cols; c++) {
            double y = (in[r * shape.cols + c] - mean) / sqrt(variance + shape.epsilon) * gamma[c] + beta[c];
            worst = fmax(worst, fabs(y - out[r * shape.cols + c]));
        }
    }
    printf("largest difference %s 1e-5\n", worst < 1e-5 ? "below" : "above");
    for (float* p : {d_in, d_out, d_gamma, d_beta}) cudaFree(p);
    return worst < 1e-5 ? 0 : 2;
}
