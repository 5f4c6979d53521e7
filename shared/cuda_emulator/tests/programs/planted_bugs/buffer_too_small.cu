// sizeof of a pointer is not the size of the array.
#include <cstdio>
#include <cstdlib>

#define CHECK(call)                                                                                  \
    if ((call) != cudaSuccess) {                                                                     \
        printf("error in line %d\n", __LINE__);                                                      \
        return 1;                                                                                    \
    }

__global__ void increment(int* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i]++;
}

int main() {
    const int n = 64;
    int *x = (int*)calloc(n, sizeof(int)), *d_x;
    CHECK(cudaMalloc(&d_x, sizeof(x)));
    CHECK(cudaMemcpy(d_x, x, n * sizeof(int), cudaMemcpyHostToDevice));  // BUG
    increment<<<1, n>>>(d_x, n);
    CHECK(cudaMemcpy(x, d_x, n * sizeof(int), cudaMemcpyDeviceToHost));
    CHECK(cudaFree(d_x));
    free(x);
    return 0;
}
