#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  __shared__ float partial[1024];
  int t = threadIdx.x;
  for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
    float m = -INFINITY;
    for (int i = t; i < width; i += blockDim.x) {
      m = fmaxf(m, float(x[row * width + i]));
    }
    partial[t] = m;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
      if (t < half) {
        partial[t] = fmaxf(partial[t], partial[t + half]);
      }
      __syncthreads();
    }
    m = partial[0];
    __syncthreads();
    float sum = 0.0f;
    for (int i = t; i < width; i += blockDim.x) {
      sum += expf(float(x[row * width + i]) - m);
    }
    partial[t] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
      if (t < half) {
        partial[t] += partial[t + half];
      }
      __syncthreads();
    }
    sum = partial[0];
    __syncthreads();
    for (int i = t; i < width; i += blockDim.x) {
      out[row * width + i] = T(expf(float(x[row * width + i]) - m) / sum);
    }
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
