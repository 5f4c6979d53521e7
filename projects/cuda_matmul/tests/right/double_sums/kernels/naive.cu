extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const size_t j = size_t(blockIdx.y) * blockDim.y + threadIdx.y;
  if (i >= size_t(m) || j >= size_t(n)) return;
  double sum = 0;
  for (int l = k - 1; l >= 0; --l) sum += double(a[i * k + l]) * double(b[size_t(l) * n + j]);
  double result = alpha * sum;
  if (beta != 0) result += double(beta) * c[i * n + j];
  c[i * n + j] = float(result);
}
