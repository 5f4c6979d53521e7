// The offset of a row of a large matrix does not fit in an int.
#include <cstdio>
#include <cstdlib>

#define CHECK(call) if (cudaError_t e = (call)) return fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(e)), 1

__global__ void clear_row(char* matrix, int row, int cols) {
    int i = row * cols + threadIdx.x;  // BUG
    matrix[i] = 0;
}

int main() {
    const int rows = 70000, cols = 40000;
    char *matrix, last = 1;
    CHECK(cudaMalloc(&matrix, (size_t)rows * cols));
    clear_row<<<1, 32>>>(matrix, rows - 1, cols);
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(&last, matrix + (size_t)(rows - 1) * cols, 1, cudaMemcpyDeviceToHost));
    printf("%d\n", last);
    CHECK(cudaFree(matrix));
    return last;
}
