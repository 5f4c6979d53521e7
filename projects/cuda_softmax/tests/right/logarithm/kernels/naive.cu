#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cfloat>

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  const size_t row = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < size_t(n_rows)) {
    const size_t begin = row * width, end = begin + width;
    float largest = -FLT_MAX, sum = 0;
    for (size_t i = begin; i < end; i++) {
      const float value = float(x[i]);
      if (value > largest) {
        sum *= expf(largest - value);
        largest = value;
      }
      sum += expf(value - largest);
    }
    const float log_sum = logf(sum);
    for (size_t i = begin; i < end; i++) out[i] = T(expf(float(x[i]) - largest - log_sum));
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
