// diagnosis: not vectorized
// kernel: warp_tiled.cu

constexpr int TILE_M = 128, TILE_N = 128, TILE_K = 16;
constexpr int WARP_M = 64, WARP_N = 64, PASSES = 4, THREAD_M = 8, THREAD_N = 4;
constexpr int THREADS = TILE_M / WARP_M * (TILE_N / WARP_N) * 32;
constexpr int PASS_N = WARP_N / PASSES;  // a pass covers WARP_M x PASS_N with 32 pieces of THREAD_M x THREAD_N

__device__ float4 load4(const float* matrix, long long row, int column, long long rows, int columns, bool wide) {
  if (row >= rows) return make_float4(0, 0, 0, 0);
  const float* p = matrix + row * columns + column;
  if (wide && column + 3 < columns) return *reinterpret_cast<const float4*>(p);
  return make_float4(column < columns ? p[0] : 0, column + 1 < columns ? p[1] : 0, column + 2 < columns ? p[2] : 0,
                     column + 3 < columns ? p[3] : 0);
}

extern "C" __global__ void __launch_bounds__(THREADS) matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  __shared__ __align__(16) float a_tile[TILE_K][TILE_M];  // transposed
  __shared__ __align__(16) float b_tile[TILE_K][TILE_N];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // Where this thread's pieces start in the block's tile; piece p lies p * PASS_N columns further.
  const int y = warp / (TILE_N / WARP_N) * WARP_M + lane / (PASS_N / THREAD_N) * THREAD_M;
  const int x = warp % (TILE_N / WARP_N) * WARP_N + lane % (PASS_N / THREAD_N) * THREAD_N;
  const long long first_row = (long long)blockIdx.y * TILE_M;
  const int first_column = blockIdx.x * TILE_N;
  const bool a_wide = false, b_wide = false;

  float sums[PASSES][THREAD_M][THREAD_N] = {};
  for (int first = 0; first < k; first += TILE_K) {
    for (int i = threadIdx.x * 4; i < TILE_M * TILE_K; i += THREADS * 4) {
      const int t_y = i / TILE_K, t_x = i % TILE_K;
      const float4 from_a = load4(a, first_row + t_y, first + t_x, m, k, a_wide);
      a_tile[t_x][t_y] = from_a.x;
      a_tile[t_x + 1][t_y] = from_a.y;
      a_tile[t_x + 2][t_y] = from_a.z;
      a_tile[t_x + 3][t_y] = from_a.w;
    }
    for (int i = threadIdx.x * 4; i < TILE_K * TILE_N; i += THREADS * 4) {
      const int t_y = i / TILE_N, t_x = i % TILE_N;
      const float4 from_b = load4(b, first + t_y, first_column + t_x, k, n, b_wide);
      *reinterpret_cast<float4*>(&b_tile[t_y][t_x]) = from_b;
    }
    __syncthreads();
    for (int i = 0; i < TILE_K; i++) {
      float a_values[THREAD_M];
      for (int r = 0; r < THREAD_M; r += 4) {
        *reinterpret_cast<float4*>(&a_values[r]) = *reinterpret_cast<const float4*>(&a_tile[i][y + r]);
      }
#pragma unroll  // so that sums[p] are registers, which have no addresses
      for (int p = 0; p < PASSES; p++) {
        float b_values[THREAD_N];
        *reinterpret_cast<float4*>(b_values) = *reinterpret_cast<const float4*>(&b_tile[i][x + p * PASS_N]);
        for (int r = 0; r < THREAD_M; r++) {
          for (int s = 0; s < THREAD_N; s++) sums[p][r][s] += a_values[r] * b_values[s];
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int p = 0; p < PASSES; p++) {
#pragma unroll
    for (int r = 0; r < THREAD_M; r++) {
#pragma unroll
      for (int s = 0; s < THREAD_N; s++) {
        const long long row = first_row + y + r;
        const int column = first_column + x + p * PASS_N + s;
        if (row >= m || column >= n) continue;
        float& result = c[row * n + column];
        result = beta == 0 ? alpha * sums[p][r][s] : alpha * sums[p][r][s] + beta * result;
      }
    }
  }
}
