extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < m; i += (long long)gridDim.x * blockDim.x) {
    for (long long j = blockIdx.y * (long long)blockDim.y + threadIdx.y; j < n; j += (long long)gridDim.y * blockDim.y) {
      const float* row = a + i * k;
      const float* column = b + j;
      float sum = 0.0f;
      for (int step = 0; step < k; ++step, ++row, column += n) sum = fmaf(*row, *column, sum);
      float& target = c[i * n + j];
      const float old = beta == 0.0f ? 0.0f : beta * target;
      target = alpha * sum + old;
    }
  }
}
