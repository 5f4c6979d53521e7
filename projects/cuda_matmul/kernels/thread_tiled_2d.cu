// A thread computes an 8 x 8 piece of c: 16 loads from shared memory serve 64 multiplications.
//
// For each i, a thread takes 8 values of a's column and 8 of b's row into registers and adds up all 64 products.

constexpr int TILE_M = 128, TILE_N = 128, TILE_K = 8, THREAD_M = 8, THREAD_N = 8;
constexpr int THREADS = TILE_M * TILE_N / (THREAD_M * THREAD_N);

extern "C" __global__ void __launch_bounds__(THREADS) matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  __shared__ float a_tile[TILE_M][TILE_K], b_tile[TILE_K][TILE_N];
  // practice: begin
  const int x = threadIdx.x % (TILE_N / THREAD_N) * THREAD_N, y = threadIdx.x / (TILE_N / THREAD_N) * THREAD_M;
  const long long first_row = (long long)blockIdx.y * TILE_M, first_column = (long long)blockIdx.x * TILE_N;

  float sums[THREAD_M][THREAD_N] = {};
  for (int first = 0; first < k; first += TILE_K) {
    for (int i = threadIdx.x; i < TILE_M * TILE_K; i += THREADS) {
      const int t_y = i / TILE_K, t_x = i % TILE_K;
      const long long row = first_row + t_y;
      a_tile[t_y][t_x] = row < m && first + t_x < k ? a[row * k + first + t_x] : 0;
    }
    for (int i = threadIdx.x; i < TILE_K * TILE_N; i += THREADS) {
      const int t_y = i / TILE_N, t_x = i % TILE_N;
      const long long column = first_column + t_x;
      b_tile[t_y][t_x] = first + t_y < k && column < n ? b[(long long)(first + t_y) * n + column] : 0;
    }
    __syncthreads();
    for (int i = 0; i < TILE_K; i++) {
      float a_values[THREAD_M], b_values[THREAD_N];
      for (int r = 0; r < THREAD_M; r++) a_values[r] = a_tile[y + r][i];
      for (int s = 0; s < THREAD_N; s++) b_values[s] = b_tile[i][x + s];
      for (int r = 0; r < THREAD_M; r++) {
        for (int s = 0; s < THREAD_N; s++) sums[r][s] += a_values[r] * b_values[s];
      }
    }
    __syncthreads();
  }
  for (int r = 0; r < THREAD_M; r++) {
    for (int s = 0; s < THREAD_N; s++) {
      const long long row = first_row + y + r, column = first_column + x + s;
      if (row >= m || column >= n) continue;
      float& result = c[row * n + column];
      result = beta == 0 ? alpha * sums[r][s] : alpha * sums[r][s] + beta * result;
    }
  }
  // practice: end
}
