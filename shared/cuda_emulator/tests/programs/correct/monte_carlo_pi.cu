// Pi from random points; every thread has a linear congruential generator of its own.
#include <cmath>
#include <cstdint>
#include <cstdio>

__device__ float next_random(uint32_t& state) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) * (1.0f / 16777216.0f);
}

__global__ void count_hits(unsigned long long* hits, int points_per_thread, uint32_t seed) {
    uint32_t state = seed + 7919u * (blockIdx.x * blockDim.x + threadIdx.x);
    for (int i = 0; i < 5; i++) next_random(state);
    int mine = 0;
    for (int i = 0; i < points_per_thread; i++) {
        float x = next_random(state), y = next_random(state);
        if (x * x + y * y <= 1.0f) mine++;
    }
    atomicAdd(hits, (unsigned long long)mine);
}

int main() {
    const int blocks = 8, threads = 64, points = 200;
    unsigned long long *d_hits, hits = 0;
    if (cudaMalloc(&d_hits, sizeof(hits)) != cudaSuccess) return 1;
    cudaMemset(d_hits, 0, sizeof(hits));
    count_hits<<<blocks, threads>>>(d_hits, points, 12345u);
    if (cudaGetLastError() != cudaSuccess) return 1;
    cudaMemcpy(&hits, d_hits, sizeof(hits), cudaMemcpyDeviceToHost);
    double pi = 4.0 * hits / ((double)blocks * threads * points);
    printf("pi is about %.4f (error %.4f)\n", pi, fabs(pi - M_PI));
    cudaFree(d_hits);
    return fabs(pi - M_PI) < 0.05 ? 0 : 1;
}
