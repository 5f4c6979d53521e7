// c = alpha a b + beta c, row-major: one thread computes one element of c, a row of a times a column of b.
//
// Rows of c are counted along x, columns along y; a block may have any shape. a is m x k, b is k x n, c is m x n. With beta = 0,
// c is not read: it may hold NaN. A matrix may have more than 2^31 elements: positions are 64 bits wide.
//
// Neighbouring threads (threadIdx.x) take neighbouring rows. So the loads of b are the same address for the whole warp,
// but those of a, and the stores to c, are a row apart: 32 lanes touch 32 sectors.
// profile: matmul<<<(2, 8), (32, 8)>>>(float[64, 64], float[64, 64], float[64, 64], 64, 64, 64, 1.0f, 0.0f)

extern "C" __global__ void matmul(
    const float* a, const float* b, float* c, int m, int n, int k, float alpha, float beta) {
  // practice: begin
  const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= m) return;
  const long long first = (long long)blockIdx.y * blockDim.y + threadIdx.y;
  for (long long col = first; col < n; col += (long long)gridDim.y * blockDim.y) {
    float sum = 0.0f;
    for (long long i = 0; i < k; ++i) {
      sum += a[row * k + i] * b[i * n + col];
    }
    const long long position = row * n + col;
    c[position] = beta == 0.0f ? alpha * sum : alpha * sum + beta * c[position];
  }
  // practice: end
}
