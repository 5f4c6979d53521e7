// Reads the neighbour that another thread may have written already.
#include <cstdio>
#include <vector>

__global__ void shift_left(int* a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n - 1) a[i] = a[i + 1];  // BUG
}

int main() {
    const int n = 600;
    std::vector<int> a(n), result(n);
    for (int i = 0; i < n; i++) a[i] = i;
    int* d_a;
    cudaMalloc(&d_a, n * sizeof(int));
    cudaMemcpy(d_a, a.data(), n * sizeof(int), cudaMemcpyHostToDevice);
    shift_left<<<(n + 127) / 128, 128>>>(d_a, n);
    cudaDeviceSynchronize();
    cudaMemcpy(result.data(), d_a, n * sizeof(int), cudaMemcpyDeviceToHost);
    bool ok = true;
    for (int i = 0; i < n - 1; i++) ok = ok && result[i] == i + 1;
    puts(ok ? "PASSED" : "FAILED");
    cudaFree(d_a);
    return 0;
}
