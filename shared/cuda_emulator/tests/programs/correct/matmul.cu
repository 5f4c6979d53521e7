// C = A * B three times: one thread per element, tiles in shared memory, and tiles whose size is a template argument.
#include <cmath>
#include <cstdio>
#include <vector>

#define TILE 8

__global__ void matmul_naive(const float* A, const float* B, float* C, int M, int N, int K) {
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    int col = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < M && col < N) {
        float sum = 0.0f;
        for (int k = 0; k < K; k++) sum += A[row * K + k] * B[k * N + col];
        C[row * N + col] = sum;
    }
}

__global__ void matmul_tiled(const float* A, const float* B, float* C, int M, int N, int K) {
    __shared__ float As[TILE][TILE];
    __shared__ float Bs[TILE][TILE];
    int tx = threadIdx.x, ty = threadIdx.y;
    int row = blockIdx.y * TILE + ty, col = blockIdx.x * TILE + tx;
    float sum = 0.0f;
    for (int t = 0; t < (K + TILE - 1) / TILE; t++) {
        As[ty][tx] = row < M && t * TILE + tx < K ? A[row * K + t * TILE + tx] : 0.0f;
        Bs[ty][tx] = col < N && t * TILE + ty < K ? B[(t * TILE + ty) * N + col] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE; k++) sum += As[ty][k] * Bs[k][tx];
        __syncthreads();
    }
    if (row < M && col < N) C[row * N + col] = sum;
}

// Each thread computes ROWS elements of a column.
template <int SIZE, int ROWS>
__global__ void matmul_template(const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C, int M, int N, int K) {
    __shared__ float As[SIZE][SIZE + 1], Bs[SIZE][SIZE];
    const int col = blockIdx.x * SIZE + threadIdx.x, first = blockIdx.y * SIZE;
    float sums[ROWS] = {};
    for (int t = 0; t < K; t += SIZE) {
        for (int r = threadIdx.y; r < SIZE; r += blockDim.y) {
            As[r][threadIdx.x] = (first + r < M && t + threadIdx.x < K) ? A[(first + r) * K + t + threadIdx.x] : 0.0f;
            Bs[r][threadIdx.x] = (t + r < K && col < N) ? B[(t + r) * N + col] : 0.0f;
        }
        __syncthreads();
        for (int k = 0; k < SIZE; k++)
            for (int r = 0; r < ROWS; r++) sums[r] += As[threadIdx.y * ROWS + r][k] * Bs[k][threadIdx.x];
        __syncthreads();
    }
    for (int r = 0; r < ROWS; r++) {
        int row = first + threadIdx.y * ROWS + r;
        if (row < M && col < N) C[row * N + col] = sums[r];
    }
}

bool verify(const char* name, float* d_C, const std::vector<float>& expected) {
    std::vector<float> C(expected.size());
    cudaMemcpy(C.data(), d_C, C.size() * sizeof(float), cudaMemcpyDeviceToHost);
    cudaMemset(d_C, 0xff, C.size() * sizeof(float));
    float worst = 0;
    for (size_t i = 0; i < C.size(); i++) worst = fmaxf(worst, std::abs(C[i] - expected[i]));
    printf("%-16s max error %.1e  %s\n", name, worst, worst < 1e-4f ? "PASSED" : "FAILED");
    return worst < 1e-4f;
}

int main(int argc, char** argv) {
    const int M = 21, N = 30, K = 18;
    std::vector<float> A(M * K), B(K * N), C(M * N);
    for (int i = 0; i < M * K; i++) A[i] = (i * 37 % 101) / 50.0f - 1.0f;
    for (int i = 0; i < K * N; i++) B[i] = (i * 53 % 97) / 48.0f - 1.0f;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++)
            for (int k = 0; k < K; k++) C[i * N + j] += A[i * K + k] * B[k * N + j];

    float *d_A, *d_B, *d_C;
    cudaMalloc(&d_A, A.size() * sizeof(float));
    cudaMalloc(&d_B, B.size() * sizeof(float));
    cudaMalloc(&d_C, C.size() * sizeof(float));
    cudaMemcpy(d_A, A.data(), A.size() * sizeof(float), cudaMemcpyHostToDevice);
    cudaMemcpy(d_B, B.data(), B.size() * sizeof(float), cudaMemcpyHostToDevice);

    bool ok = true;
    dim3 block(TILE, TILE), grid((N + TILE - 1) / TILE, (M + TILE - 1) / TILE);
    matmul_naive<<<grid, block>>>(d_A, d_B, d_C, M, N, K);
    ok &= verify("naive", d_C, C);
    matmul_tiled<<<grid, block>>>(d_A, d_B, d_C, M, N, K);
    ok &= verify("tiled", d_C, C);
    constexpr int SIZE = 16, ROWS = 4;
    matmul_template<SIZE, ROWS><<<dim3((N + SIZE - 1) / SIZE, (M + SIZE - 1) / SIZE), dim3(SIZE, SIZE / ROWS)>>>(d_A, d_B, d_C, M, N, K);
    ok &= verify("template", d_C, C);
    cudaFree(d_A);
    cudaFree(d_B);
    cudaFree(d_C);
    return ok ? 0 : 1;
}
