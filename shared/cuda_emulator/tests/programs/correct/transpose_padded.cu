// Transposes a matrix through a tile with one column of padding, against bank conflicts.
#include <cstdio>
#include <cstdlib>

const int TILE_DIM = 16;
const int BLOCK_ROWS = 4;

__global__ void transpose(float* out, const float* in, int width, int height) {
    __shared__ float tile[TILE_DIM][TILE_DIM + 1];
    int x = blockIdx.x * TILE_DIM + threadIdx.x;
    int y = blockIdx.y * TILE_DIM + threadIdx.y;
    for (int j = 0; j < TILE_DIM; j += BLOCK_ROWS)
        if (x < width && y + j < height) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * width + x];
    __syncthreads();
    x = blockIdx.y * TILE_DIM + threadIdx.x;
    y = blockIdx.x * TILE_DIM + threadIdx.y;
    for (int j = 0; j < TILE_DIM; j += BLOCK_ROWS)
        if (x < height && y + j < width) out[(y + j) * height + x] = tile[threadIdx.x][threadIdx.y + j];
}

int main() {
    const int width = 50, height = 37, size = width * height * sizeof(float);
    float* in = (float*)malloc(size);
    float* out = (float*)malloc(size);
    for (int i = 0; i < width * height; ++i) in[i] = i;
    float *d_in = NULL, *d_out = NULL;
    cudaMalloc((void**)&d_in, size);
    cudaMalloc((void**)&d_out, size);
    cudaMemcpy(d_in, in, size, cudaMemcpyHostToDevice);
    dim3 grid((width + TILE_DIM - 1) / TILE_DIM, (height + TILE_DIM - 1) / TILE_DIM, 1), block(TILE_DIM, BLOCK_ROWS, 1);
    transpose<<<grid, block>>>(d_out, d_in, width, height);
    cudaDeviceSynchronize();
    cudaMemcpy(out, d_out, size, cudaMemcpyDeviceToHost);
    for (int i = 0; i < height; ++i) {
        for (int j = 0; j < width; ++j) {
            if (out[j * height + i] != in[i * width + j]) {
                printf("FAILED at row %d, column %d: %f instead of %f\n", i, j, out[j * height + i], in[i * width + j]);
                return EXIT_FAILURE;
            }
        }
    }
    printf("PASSED\n");
    cudaFree(d_in);
    cudaFree(d_out);
    free(in);
    free(out);
    return EXIT_SUCCESS;
}
