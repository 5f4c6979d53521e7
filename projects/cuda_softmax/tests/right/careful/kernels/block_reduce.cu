#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cfloat>

template <typename Combine>
__device__ float reduce(float* partial, float mine, Combine combine) {
  __syncthreads();
  partial[threadIdx.x] = mine;
  for (unsigned step = 1; step < blockDim.x; step *= 2) {
    __syncthreads();
    if (threadIdx.x % (2 * step) == 0) partial[threadIdx.x] = combine(partial[threadIdx.x], partial[threadIdx.x + step]);
  }
  __syncthreads();
  return partial[0];
}

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  __shared__ float partial[1024];
  const int lane = threadIdx.x;
  const int threads = blockDim.x;
  for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const T* logits = x + row * (long long)width;
    T* result = out + row * (long long)width;

    float largest = -FLT_MAX;
    for (int i = lane; i < width; i += threads) largest = fmaxf(largest, float(logits[i]));
    largest = reduce(partial, largest, [](float a, float b) { return fmaxf(a, b); });

    float total = 0.0f;
    for (int i = lane; i < width; i += threads) total += expf(float(logits[i]) - largest);
    total = reduce(partial, total, [](float a, float b) { return a + b; });

    for (int i = lane; i < width; i += threads) result[i] = T(expf(float(logits[i]) - largest) / total);
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
