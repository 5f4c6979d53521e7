// A block computes a TILE x TILE piece of c and walks along k: each step loads a tile of a and one of b to shared memory.
//
// A block has TILE x TILE threads; columns of c are counted along x, rows along y. With beta = 0, c is not read.
//
// Each element is then read from global memory once per block, not once per thread: TILE times less traffic. Still one
// thread per element of c, so every multiplication takes two loads, now from shared memory.

constexpr int TILE = 32;

extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  __shared__ float a_tile[TILE][TILE], b_tile[TILE][TILE];
  // practice: begin
  const int x = threadIdx.x, y = threadIdx.y;
  const long long col = (long long)blockIdx.x * TILE + x;
  for (long long first = (long long)blockIdx.y * TILE; first < m; first += (long long)gridDim.y * TILE) {
    const long long row = first + y;
    float sum = 0.0f;
    for (long long start = 0; start < k; start += TILE) {
      a_tile[y][x] = row < m && start + x < k ? a[row * k + start + x] : 0.0f;
      b_tile[y][x] = start + y < k && col < n ? b[(start + y) * n + col] : 0.0f;
      __syncthreads();
      for (int i = 0; i < TILE; ++i) {
        sum += a_tile[y][i] * b_tile[i][x];
      }
      __syncthreads();
    }
    if (row < m && col < n) {
      const long long position = row * n + col;
      c[position] = beta == 0.0f ? alpha * sum : alpha * sum + beta * c[position];
    }
  }
  // practice: end
}
