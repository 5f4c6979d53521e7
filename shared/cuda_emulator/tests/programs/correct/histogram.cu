// Counts letters: each block counts in shared memory, then adds its counts to the total. Timed by std::chrono.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>

#define BINS 26

__global__ void histogram(const char* text, int length, unsigned int* counts) {
    __shared__ unsigned int local[BINS];
    if (threadIdx.x < BINS) local[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < length; i += blockDim.x * gridDim.x) {
        char c = text[i];
        if (c >= 'a' && c <= 'z') atomicAdd(&local[c - 'a'], 1);
    }
    __syncthreads();
    if (threadIdx.x < BINS) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

int main() {
    std::string text;
    for (int i = 0; i < 60; i++) text += "the quick brown fox jumps over the lazy dog, ";
    unsigned int expected[BINS] = {0}, counts[BINS];
    for (char c : text)
        if (c >= 'a' && c <= 'z') expected[c - 'a']++;

    char* d_text;
    unsigned int* d_counts;
    cudaMalloc(&d_text, text.size());
    cudaMalloc(&d_counts, sizeof(counts));
    cudaMemcpy(d_text, text.data(), text.size(), cudaMemcpyHostToDevice);
    cudaMemset(d_counts, 0, sizeof(counts));

    auto start = std::chrono::high_resolution_clock::now();
    histogram<<<4, 64>>>(d_text, (int)text.size(), d_counts);
    cudaDeviceSynchronize();
    auto stop = std::chrono::high_resolution_clock::now();
    cudaMemcpy(counts, d_counts, sizeof(counts), cudaMemcpyDeviceToHost);
    printf("took %ld us\n", (long)std::chrono::duration_cast<std::chrono::microseconds>(stop - start).count());
    for (int i = 0; i < BINS; i++) printf("%c:%u%c", 'a' + i, counts[i], i == BINS - 1 ? '\n' : ' ');

    bool same = memcmp(counts, expected, sizeof(counts)) == 0;
    printf(same ? "PASSED\n" : "FAILED\n");
    cudaFree(d_text);
    cudaFree(d_counts);
    return !same;
}
