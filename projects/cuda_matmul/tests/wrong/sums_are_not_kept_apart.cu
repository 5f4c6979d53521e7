// diagnosis: the sums of a thread are not kept apart
// kernel: thread_tiled_1d.cu

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 8, PER_THREAD = 8;
constexpr int THREADS = TILE_M * TILE_N / PER_THREAD;

extern "C" __global__ void __launch_bounds__(THREADS) matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  __shared__ float a_tile[TILE_M][TILE_K], b_tile[TILE_K][TILE_N];
  const int x = threadIdx.x % TILE_N, y = threadIdx.x / TILE_N * PER_THREAD;  // the first of this thread's elements
  const long long first_row = (long long)blockIdx.y * TILE_M, first_column = (long long)blockIdx.x * TILE_N;
  // As many threads as a tile has elements, so each loads one element of a and one of b.
  const int a_y = threadIdx.x / TILE_K, a_x = threadIdx.x % TILE_K;
  const int b_y = threadIdx.x / TILE_N, b_x = threadIdx.x % TILE_N;
  const long long a_row = first_row + a_y, b_column = first_column + b_x;

  float sums[PER_THREAD] = {};
  for (int first = 0; first < k; first += TILE_K) {
    a_tile[a_y][a_x] = a_row < m && first + a_x < k ? a[a_row * k + first + a_x] : 0;
    b_tile[b_y][b_x] = first + b_y < k && b_column < n ? b[(long long)(first + b_y) * n + b_column] : 0;
    __syncthreads();
#pragma unroll 4
    for (int i = 0; i < TILE_K; i++) {
      const float b_value = b_tile[i][x];
      for (int r = 0; r < PER_THREAD; r++) sums[r] += a_tile[y][i] * b_value;
    }
    __syncthreads();
  }
  const long long column = first_column + x;
  for (int r = 0; r < PER_THREAD; r++) {
    const long long row = first_row + y + r;
    if (row >= m || column >= n) continue;
    float& result = c[row * n + column];
    result = beta == 0 ? alpha * sums[r] : alpha * sums[r] + beta * result;
  }
}
