// diagnosis: misaligned
// kernel: vectorized.cu

constexpr int TILE_M = 128, TILE_N = 128, TILE_K = 8, THREAD_M = 8, THREAD_N = 8;
constexpr int THREADS = TILE_M * TILE_N / (THREAD_M * THREAD_N);

// Four neighbours in a row of a (rows x columns) matrix, zeros past its edges; `wide`: rows start at multiples of 16.
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
  const int x = threadIdx.x % (TILE_N / THREAD_N) * THREAD_N, y = threadIdx.x / (TILE_N / THREAD_N) * THREAD_M;
  const long long first_row = (long long)blockIdx.y * TILE_M;
  const int first_column = blockIdx.x * TILE_N;
  // 256 threads load 4 elements each of both tiles.
  const int a_y = threadIdx.x / (TILE_K / 4), a_x = threadIdx.x % (TILE_K / 4) * 4;
  const int b_y = threadIdx.x / (TILE_N / 4), b_x = threadIdx.x % (TILE_N / 4) * 4;
  const bool a_wide = k % 4 == 0 && (size_t)a % 16 == 0, b_wide = n % 4 == 0;

  float sums[THREAD_M][THREAD_N] = {};
  for (int first = 0; first < k; first += TILE_K) {
    const float4 from_a = load4(a, first_row + a_y, first + a_x, m, k, a_wide);
    a_tile[a_x][a_y] = from_a.x;
    a_tile[a_x + 1][a_y] = from_a.y;
    a_tile[a_x + 2][a_y] = from_a.z;
    a_tile[a_x + 3][a_y] = from_a.w;
    const float4 from_b = load4(b, first + b_y, first_column + b_x, k, n, b_wide);
    *reinterpret_cast<float4*>(&b_tile[b_y][b_x]) = from_b;
    __syncthreads();
    for (int i = 0; i < TILE_K; i++) {
      float a_values[THREAD_M], b_values[THREAD_N];
      for (int r = 0; r < THREAD_M; r += 4) {
        *reinterpret_cast<float4*>(&a_values[r]) = *reinterpret_cast<const float4*>(&a_tile[i][y + r]);
      }
      for (int s = 0; s < THREAD_N; s += 4) {
        *reinterpret_cast<float4*>(&b_values[s]) = *reinterpret_cast<const float4*>(&b_tile[i][x + s]);
      }
      for (int r = 0; r < THREAD_M; r++) {
        for (int s = 0; s < THREAD_N; s++) sums[r][s] += a_values[r] * b_values[s];
      }
    }
    __syncthreads();
  }
  for (int r = 0; r < THREAD_M; r++) {
    for (int s = 0; s < THREAD_N; s++) {
      const long long row = first_row + y + r;
      const int column = first_column + x + s;
      if (row >= m || column >= n) continue;
      float& result = c[row * n + column];
      result = beta == 0 ? alpha * sums[r][s] : alpha * sums[r][s] + beta * result;
    }
  }
}
