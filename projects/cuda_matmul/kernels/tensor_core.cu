// bf16 inputs, float32 sums, on tensor cores: a warp multiplies 16 x 16 matrices with one instruction.
//
// A block of four warps computes 64 x 64 of c, each warp a strip of 16 x 64. Tiles go through shared memory, where the edges
// are filled with zeros; the sums leave through shared memory too, since a fragment's layout is the hardware's secret.
// The CPU emulator declines this kernel: it has no tensor cores. The compile gate covers it.

#include <cuda_bf16.h>
#include <mma.h>

using namespace nvcuda;

constexpr int TILE = 64, TILE_K = 16, WARPS = 4, THREADS = WARPS * 32;

extern "C" __global__ void __launch_bounds__(THREADS) matmul(
    const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int m, int n, int k, float alpha, float beta) {
  __shared__ __align__(32) __nv_bfloat16 a_tile[TILE][TILE_K], b_tile[TILE_K][TILE];
  __shared__ __align__(32) float c_tile[TILE][TILE];
  const int warp = threadIdx.x / 32;
  const long long first_row = (long long)blockIdx.y * TILE, first_column = (long long)blockIdx.x * TILE;
  const __nv_bfloat16 zero = __float2bfloat16(0.0f);

  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums[TILE / 16];
  for (int j = 0; j < TILE / 16; j++) wmma::fill_fragment(sums[j], 0.0f);
  for (int first = 0; first < k; first += TILE_K) {
    for (int i = threadIdx.x; i < TILE * TILE_K; i += THREADS) {
      const int y = i / TILE_K, x = i % TILE_K;
      a_tile[y][x] = first_row + y < m && first + x < k ? a[(first_row + y) * k + first + x] : zero;
    }
    for (int i = threadIdx.x; i < TILE_K * TILE; i += THREADS) {
      const int y = i / TILE, x = i % TILE;
      b_tile[y][x] = first + y < k && first_column + x < n ? b[(long long)(first + y) * n + first_column + x] : zero;
    }
    __syncthreads();
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> a_part;
    wmma::load_matrix_sync(a_part, &a_tile[warp * 16][0], TILE_K);
    for (int j = 0; j < TILE / 16; j++) {
      wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::row_major> b_part;
      wmma::load_matrix_sync(b_part, &b_tile[0][j * 16], TILE);
      wmma::mma_sync(sums[j], a_part, b_part, sums[j]);
    }
    __syncthreads();
  }
  for (int j = 0; j < TILE / 16; j++) {
    wmma::store_matrix_sync(&c_tile[warp * 16][j * 16], sums[j], TILE, wmma::mem_row_major);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
    const long long row = first_row + i / TILE, column = first_column + i % TILE;
    if (row >= m || column >= n) continue;
    float& result = c[row * n + column];
    result = beta == 0 ? alpha * c_tile[i / TILE][i % TILE] : alpha * c_tile[i / TILE][i % TILE] + beta * result;
  }
}
