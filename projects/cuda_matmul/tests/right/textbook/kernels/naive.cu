extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  int col = blockIdx.y * blockDim.y + threadIdx.y;
  if (row < m && col < n) {
    float sum = 0.0f;
    for (int i = 0; i < k; i++) {
      sum += a[(long long)row * k + i] * b[(long long)i * n + col];
    }
    long long at = (long long)row * n + col;
    if (beta == 0.0f) {
      c[at] = alpha * sum;
    } else {
      c[at] = alpha * sum + beta * c[at];
    }
  }
}
