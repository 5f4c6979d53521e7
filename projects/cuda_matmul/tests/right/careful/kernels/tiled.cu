constexpr int TILE = 32;

extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  __shared__ float a_tile[TILE][TILE], b_tile[TILE][TILE];
  const int x = threadIdx.x, y = threadIdx.y;
  const int column = blockIdx.x * TILE + x;
  for (long long top = (long long)blockIdx.y * TILE; top < m; top += (long long)gridDim.y * TILE) {
    const long long row = top + y;
    const int tiles = (k + TILE - 1) / TILE;
    float sum = 0.0f;
    for (int t = 0; t < tiles; ++t) {
      const long long inner_x = (long long)t * TILE + x, inner_y = (long long)t * TILE + y;
      float value = 0.0f;
      if (row < m && inner_x < k) value = a[row * k + inner_x];
      a_tile[y][x] = value;
      value = 0.0f;
      if (inner_y < k && column < n) value = b[inner_y * n + column];
      b_tile[y][x] = value;
      __syncthreads();
  #pragma unroll
      for (int i = 0; i < TILE; ++i) sum = fmaf(a_tile[y][i], b_tile[i][x], sum);
      __syncthreads();
    }
    if (row < m && column < n) {
      float* target = c + row * n + column;
      *target = beta == 0.0f ? alpha * sum : fmaf(beta, *target, alpha * sum);
    }
  }
}
