constexpr int TILE = 32;

extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  __shared__ float a_tile[TILE][TILE], b_tile[TILE][TILE];
  int row = blockIdx.y * TILE + threadIdx.y;
  int col = blockIdx.x * TILE + threadIdx.x;
  float sum = 0.0f;
  for (int start = 0; start < k; start += TILE) {
    int a_col = start + threadIdx.x;
    int b_row = start + threadIdx.y;
    a_tile[threadIdx.y][threadIdx.x] = row < m && a_col < k ? a[(long long)row * k + a_col] : 0.0f;
    b_tile[threadIdx.y][threadIdx.x] = b_row < k && col < n ? b[(long long)b_row * n + col] : 0.0f;
    __syncthreads();
    for (int i = 0; i < TILE; i++) {
      sum += a_tile[threadIdx.y][i] * b_tile[i][threadIdx.x];
    }
    __syncthreads();
  }
  if (row < m && col < n) {
    long long at = (long long)row * n + col;
    if (beta == 0.0f) {
      c[at] = alpha * sum;
    } else {
      c[at] = alpha * sum + beta * c[at];
    }
  }
}
