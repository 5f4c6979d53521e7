#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  const long long stride = (long long)gridDim.x * blockDim.x;
  for (long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x; row < n_rows; row += stride) {
    const T* logits = x + row * width;
    T* result = out + row * width;
    float largest = float(logits[0]);
    for (int i = 1; i < width; ++i) {
      const float value = float(logits[i]);
      if (value > largest) largest = value;
    }
    double total = 0.0;
    for (int i = 0; i < width; ++i) total += expf(float(logits[i]) - largest);
    const float factor = float(1.0 / total);
    for (int i = 0; i < width; ++i) result[i] = T(expf(float(logits[i]) - largest) * factor);
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
