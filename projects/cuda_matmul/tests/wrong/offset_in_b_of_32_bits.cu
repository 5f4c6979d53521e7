// diagnosis: 32 bits
// kernel: naive.cu

extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long column = (long long)blockIdx.y * blockDim.y + threadIdx.y;
  if (row >= m || column >= n) return;
  float sum = 0;
  for (int i = 0; i < k; i++) sum += a[row * k + i] * b[i * n + column];
  float& result = c[row * n + column];
  result = beta == 0 ? alpha * sum : alpha * sum + beta * result;  // beta = 0: c may hold NaN, it is not read
}
