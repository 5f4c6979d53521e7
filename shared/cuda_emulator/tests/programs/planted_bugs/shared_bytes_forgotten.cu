// The third number of a launch is in bytes.
#include <cstdio>
#include <cstdlib>

#define CHECK(x) do { cudaError_t e = (x); if (e != cudaSuccess) { printf("%s\n", cudaGetErrorString(e)); exit(1); } } while (0)

__global__ void reverse(float* d, int n) {
    extern __shared__ float s[];
    int t = threadIdx.x;
    s[t] = d[t];  // BUG
    __syncthreads();
    d[t] = s[n - t - 1];
}

int main() {
    const int n = 64;
    float a[n], r[n];
    for (int i = 0; i < n; i++) a[i] = i;
    float* d;
    CHECK(cudaMalloc(&d, n * sizeof(float)));
    CHECK(cudaMemcpy(d, a, n * sizeof(float), cudaMemcpyHostToDevice));
    reverse<<<1, n, n>>>(d, n);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(r, d, n * sizeof(float), cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; i++)
        if (r[i] != n - i - 1) return printf("FAILED\n"), 1;
    printf("PASSED\n");
    CHECK(cudaFree(d));
    return 0;
}
