// A one-dimensional stencil: each block loads its part of the array and a halo of RADIUS elements on either side.
#include <cstdio>
#include <cstdlib>

#define RADIUS 3
#define BLOCK_SIZE 64

__global__ void stencil_1d(const int* in, int* out, int n) {
    __shared__ int temp[BLOCK_SIZE + 2 * RADIUS];
    int g = threadIdx.x + blockIdx.x * blockDim.x;
    int l = threadIdx.x + RADIUS;
    temp[l] = g < n ? in[g] : 0;
    if (threadIdx.x < RADIUS) {
        temp[l - RADIUS] = g >= RADIUS ? in[g - RADIUS] : 0;
        temp[l + BLOCK_SIZE] = g + BLOCK_SIZE < n ? in[g + BLOCK_SIZE] : 0;
    }
    __syncthreads();
    int result = 0;
    for (int offset = -RADIUS; offset <= RADIUS; offset++) result += temp[l + offset];
    if (g < n) out[g] = result;
}

int main() {
    const int n = 1000;
    int *in, *out, *d_in, *d_out;
    int size = n * sizeof(int);
    in = (int*)malloc(size);
    out = (int*)malloc(size);
    for (int i = 0; i < n; i++) in[i] = rand() % 100;
    cudaMalloc((void**)&d_in, size);
    cudaMalloc((void**)&d_out, size);
    cudaMemcpy(d_in, in, size, cudaMemcpyHostToDevice);
    stencil_1d<<<(n + BLOCK_SIZE - 1) / BLOCK_SIZE, BLOCK_SIZE>>>(d_in, d_out, n);
    cudaMemcpy(out, d_out, size, cudaMemcpyDeviceToHost);
    for (int i = 0; i < n; i++) {
        int sum = 0;
        for (int j = i - RADIUS; j <= i + RADIUS; j++) sum += j >= 0 && j < n ? in[j] : 0;
        if (sum != out[i]) {
            printf("FAILED: out[%d] == %d, not %d\n", i, out[i], sum);
            exit(1);
        }
    }
    printf("Success!\n");
    free(in);
    free(out);
    cudaFree(d_in);
    cudaFree(d_out);
    return 0;
}
