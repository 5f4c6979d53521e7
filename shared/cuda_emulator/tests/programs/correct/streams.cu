// Pinned memory and four streams, each of which copies its part in, works on it and copies it out.
#include <cstdio>
#include <cstdlib>

#define CHECK(call)                                                                                   \
    {                                                                                                 \
        const cudaError_t error = call;                                                               \
        if (error != cudaSuccess) {                                                                   \
            printf("Error: %s:%d, code: %d, reason: %s\n", __FILE__, __LINE__, error, cudaGetErrorString(error)); \
            exit(1);                                                                                  \
        }                                                                                             \
    }

__global__ void square(float* a, int offset, int n) {
    int i = offset + threadIdx.x + blockIdx.x * blockDim.x;
    if (i < offset + n) a[i] = a[i] * a[i];
}

void CUDART_CB done(void* data) { ++*(int*)data; }

int main() {
    const int streams = 4, n = 4000, part = n / streams;
    float *a, *d_a;
    int callbacks = 0;
    CHECK(cudaMallocHost(&a, n * sizeof(float)));
    CHECK(cudaMalloc(&d_a, n * sizeof(float)));
    for (int i = 0; i < n; i++) a[i] = i;
    cudaStream_t stream[streams];
    cudaEvent_t finished[streams];
    for (int s = 0; s < streams; s++) {
        CHECK(cudaStreamCreate(&stream[s]));
        CHECK(cudaEventCreateWithFlags(&finished[s], cudaEventDisableTiming));
    }
    for (int s = 0; s < streams; s++) {
        int offset = s * part;
        CHECK(cudaMemcpyAsync(&d_a[offset], &a[offset], part * sizeof(float), cudaMemcpyHostToDevice, stream[s]));
        square<<<(part + 255) / 256, 256, 0, stream[s]>>>(d_a, offset, part);
        CHECK(cudaMemcpyAsync(&a[offset], &d_a[offset], part * sizeof(float), cudaMemcpyDeviceToHost, stream[s]));
        CHECK(cudaEventRecord(finished[s], stream[s]));
        CHECK(cudaLaunchHostFunc(stream[s], done, &callbacks));
    }
    CHECK(cudaStreamWaitEvent(stream[0], finished[1], 0));
    for (int s = 0; s < streams; s++) CHECK(cudaStreamSynchronize(stream[s]));
    int wrong = 0;
    for (int i = 0; i < n; i++) wrong += a[i] != (float)i * i;
    printf("%d wrong, %d callbacks\n", wrong, callbacks);
    for (int s = 0; s < streams; s++) {
        CHECK(cudaStreamDestroy(stream[s]));
        CHECK(cudaEventDestroy(finished[s]));
    }
    CHECK(cudaFree(d_a));
    CHECK(cudaFreeHost(a));
    CHECK(cudaDeviceReset());
    return wrong || callbacks != streams;
}
