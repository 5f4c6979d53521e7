// A block has at most 1024 threads. Nobody looks at the error, and the old content of the array is printed.
#include <cstdio>
#include <cstring>

__global__ void twice(int* a, int n) {
    int i = threadIdx.x;
    if (i < n) a[i] *= 2;
}

int main() {
    const int n = 2048;
    int a[n];
    for (int i = 0; i < n; i++) a[i] = i;
    int* d_a;
    cudaMalloc(&d_a, sizeof(a));
    cudaMemcpy(d_a, a, sizeof(a), cudaMemcpyHostToDevice);
    twice<<<1, n>>>(d_a, n);  // BUG
    cudaDeviceSynchronize();
    cudaMemcpy(a, d_a, sizeof(a), cudaMemcpyDeviceToHost);
    printf("a[100] = %d\n", a[100]);
    cudaFree(d_a);
    return 0;
}
