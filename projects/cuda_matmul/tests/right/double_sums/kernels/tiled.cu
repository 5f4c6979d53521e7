constexpr int TILE = 32;

extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  __shared__ float a_tile[TILE][TILE], b_tile[TILE][TILE];
  const size_t i = size_t(blockIdx.y) * TILE + threadIdx.y;
  const size_t j = size_t(blockIdx.x) * TILE + threadIdx.x;
  double sum = 0;
  int left = k;
  const float* next_a = a + i * k + threadIdx.x;
  const float* next_b = b + size_t(threadIdx.y) * n + j;
  while (left > 0) {
    a_tile[threadIdx.x][threadIdx.y] = i < size_t(m) && int(threadIdx.x) < left ? *next_a : 0;
    b_tile[threadIdx.y][threadIdx.x] = j < size_t(n) && int(threadIdx.y) < left ? *next_b : 0;
    __syncthreads();
    const int turns = left < TILE ? left : TILE;
    for (int l = 0; l < turns; ++l) sum += double(a_tile[l][threadIdx.y]) * b_tile[l][threadIdx.x];
    __syncthreads();
    next_a += TILE;
    next_b += size_t(TILE) * n;
    left -= TILE;
  }
  if (i < size_t(m) && j < size_t(n)) {
    sum *= alpha;
    if (beta) sum += double(beta) * c[i * n + j];
    c[i * n + j] = sum;
  }
}
