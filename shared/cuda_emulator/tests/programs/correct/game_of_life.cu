// The Game of Life on a torus; two boards change places after each generation.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

const int W = 24, H = 16;

__host__ __device__ inline int alive_next(const unsigned char* board, int x, int y) {
    int count = 0;
    for (int dy = -1; dy <= 1; dy++)
        for (int dx = -1; dx <= 1; dx++)
            if (dx || dy) count += board[(y + dy + H) % H * W + (x + dx + W) % W];
    return count == 3 || (count == 2 && board[y * W + x]);
}

__global__ void step(const unsigned char* now, unsigned char* next) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < W && y < H) next[y * W + x] = alive_next(now, x, y);
}

int main() {
    unsigned char board[W * H] = {}, other[W * H], result[W * H];
    const int glider[] = {1, W + 2, 2 * W, 2 * W + 1, 2 * W + 2};
    for (int cell : glider) board[cell] = 1;
    for (int i = 0; i < 10; i++) board[8 * W + 7 + i] = 1;
    unsigned char *d_now, *d_next;
    cudaMalloc(&d_now, sizeof board);
    cudaMalloc(&d_next, sizeof board);
    cudaMemcpy(d_now, board, sizeof board, cudaMemcpyHostToDevice);
    dim3 block(8, 8), grid(W / block.x, H / block.y);
    for (int generation = 0; generation < 12; generation++) {
        step<<<grid, block>>>(d_now, d_next);
        std::swap(d_now, d_next);
        for (int i = 0; i < W * H; i++) other[i] = alive_next(board, i % W, i / W);
        memcpy(board, other, sizeof board);
    }
    cudaMemcpy(result, d_now, sizeof result, cudaMemcpyDeviceToHost);
    for (int y = 0; y < H; y++, puts(""))
        for (int x = 0; x < W; x++) putchar(result[y * W + x] ? '#' : '.');
    if (memcmp(board, result, sizeof board)) {
        puts("FAILED");
        return 1;
    }
    puts("PASSED");
    cudaFree(d_now);
    cudaFree(d_next);
    return 0;
}
