#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= n_rows) return;
  x += row * width;
  out += row * width;
  float m = -INFINITY;
  for (int i = 0; i < width; i++) {
    m = fmaxf(m, float(x[i]));
  }
  float sum = 0.0f;
  for (int i = 0; i < width; i++) {
    sum += expf(float(x[i]) - m);
  }
  for (int i = 0; i < width; i++) {
    out[i] = T(expf(float(x[i]) - m) / sum);
  }
}

extern "C" __global__ void softmax_float16(const __half* x, __half* out, long long n_rows, int width) {
  softmax(x, out, n_rows, width);
}
extern "C" __global__ void softmax_bfloat16(const __nv_bfloat16* x, __nv_bfloat16* out, long long n_rows, int width) {
  softmax(x, out, n_rows, width);
}
extern "C" __global__ void softmax_float32(const float* x, float* out, long long n_rows, int width) {
  softmax(x, out, n_rows, width);
}
