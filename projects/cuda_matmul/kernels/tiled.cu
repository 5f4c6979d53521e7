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
  const long long row = (long long)blockIdx.y * TILE + y, column = (long long)blockIdx.x * TILE + x;
  float sum = 0;
  for (int first = 0; first < k; first += TILE) {
    // Zeros past the edges: they add nothing, and every thread stays for the barriers.
    a_tile[y][x] = row < m && first + x < k ? a[row * k + first + x] : 0;
    b_tile[y][x] = first + y < k && column < n ? b[(long long)(first + y) * n + column] : 0;
    __syncthreads();  // the tiles are complete
    for (int i = 0; i < TILE; i++) sum += a_tile[y][i] * b_tile[i][x];
    __syncthreads();  // everybody is done with them
  }
  if (row >= m || column >= n) return;
  float& result = c[row * n + column];
  result = beta == 0 ? alpha * sum : alpha * sum + beta * result;
  // practice: end
}
