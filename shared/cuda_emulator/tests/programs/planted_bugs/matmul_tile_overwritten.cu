// The next tile is loaded while other threads still work on this one.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#define cudaCheck(err) (cudaCheckImpl(err, __FILE__, __LINE__))
void cudaCheckImpl(cudaError_t error, const char* file, int line) {
    if (error != cudaSuccess) {
        printf("[CUDA ERROR] at file %s:%d:\n%s\n", file, line, cudaGetErrorString(error));
        exit(EXIT_FAILURE);
    }
}

template <int BLOCKSIZE>
__global__ void matmul(const float* A, const float* B, float* C, int n) {
    __shared__ float As[BLOCKSIZE * BLOCKSIZE];
    __shared__ float Bs[BLOCKSIZE * BLOCKSIZE];
    int row = threadIdx.x / BLOCKSIZE, col = threadIdx.x % BLOCKSIZE;
    A += blockIdx.y * BLOCKSIZE * n;
    B += blockIdx.x * BLOCKSIZE;
    float sum = 0.0f;
    for (int k = 0; k < n; k += BLOCKSIZE, A += BLOCKSIZE, B += BLOCKSIZE * n) {
        As[row * BLOCKSIZE + col] = A[row * n + col];  // BUG
        Bs[row * BLOCKSIZE + col] = B[row * n + col];  // BUG
        __syncthreads();
        for (int i = 0; i < BLOCKSIZE; i++) sum += As[row * BLOCKSIZE + i] * Bs[i * BLOCKSIZE + col];  // BUG
    }
    C[(blockIdx.y * BLOCKSIZE + row) * n + blockIdx.x * BLOCKSIZE + col] = sum;
}

int main() {
    const int n = 32, size = n * n * sizeof(float);
    float *A = (float*)malloc(size), *B = (float*)malloc(size), *C = (float*)malloc(size);
    for (int i = 0; i < n * n; i++) A[i] = i % 3, B[i] = i % 5;
    float *dA, *dB, *dC;
    cudaCheck(cudaMalloc((void**)&dA, size));
    cudaCheck(cudaMalloc((void**)&dB, size));
    cudaCheck(cudaMalloc((void**)&dC, size));
    cudaCheck(cudaMemcpy(dA, A, size, cudaMemcpyHostToDevice));
    cudaCheck(cudaMemcpy(dB, B, size, cudaMemcpyHostToDevice));
    matmul<16><<<dim3(n / 16, n / 16), 16 * 16>>>(dA, dB, dC, n);
    cudaCheck(cudaDeviceSynchronize());
    cudaCheck(cudaMemcpy(C, dC, size, cudaMemcpyDeviceToHost));
    bool same = true;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            float sum = 0;
            for (int k = 0; k < n; k++) sum += A[i * n + k] * B[k * n + j];
            same = same && fabs(sum - C[i * n + j]) < 1e-3;
        }
    printf("%s\n", same ? "PASSED" : "FAILED");
    return same ? 0 : 1;
}
