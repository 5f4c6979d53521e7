// y = a * x + y with a grid-stride loop, timed by events.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#define CHECK(call)                                                                                  \
    do {                                                                                             \
        cudaError_t status = (call);                                                                 \
        if (status != cudaSuccess) {                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(status));          \
            exit(EXIT_FAILURE);                                                                      \
        }                                                                                            \
    } while (0)

__global__ void saxpy(int n, float a, const float* x, float* y) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) y[i] = a * x[i] + y[i];
}

int main() {
    const int n = 5000;
    const size_t bytes = n * sizeof(float);
    float *x = (float*)malloc(bytes), *y = (float*)malloc(bytes), *result = (float*)malloc(bytes);
    for (int i = 0; i < n; i++) x[i] = sinf(i), y[i] = cosf(i);

    float *d_x, *d_y;
    CHECK(cudaMalloc(&d_x, bytes));
    CHECK(cudaMalloc((void**)&d_y, bytes));
    CHECK(cudaMemcpy(d_x, x, bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(d_y, y, bytes, cudaMemcpyHostToDevice));

    cudaEvent_t start, stop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    CHECK(cudaEventRecord(start));
    saxpy<<<8, 128>>>(n, 2.5f, d_x, d_y);
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(stop));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    CHECK(cudaMemcpy(result, d_y, bytes, cudaMemcpyDeviceToHost));

    int wrong = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(result[i] - (2.5f * x[i] + y[i])) > 1e-5f) wrong++;
    printf("%d elements in %.3f ms, %.2f GB/s\n", n, ms, 3 * bytes / (ms * 1e6));
    printf("%s\n", wrong ? "FAILED" : "PASSED");

    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(stop));
    CHECK(cudaFree(d_x));
    CHECK(cudaFree(d_y));
    free(x), free(y), free(result);
    return wrong != 0;
}
