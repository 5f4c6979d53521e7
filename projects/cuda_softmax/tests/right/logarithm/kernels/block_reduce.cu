#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  __shared__ float partial[1024];
  for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const T* in = x + row * width;
    float largest = -INFINITY;
    for (int i = threadIdx.x; i < width; i += blockDim.x) largest = max(largest, float(in[i]));
    partial[threadIdx.x] = largest;
    for (int s = blockDim.x / 2; s >= 1; s >>= 1) {
      __syncthreads();
      if (int(threadIdx.x) < s) partial[threadIdx.x] = max(partial[threadIdx.x], partial[threadIdx.x + s]);
    }
    __syncthreads();
    largest = partial[0];
    __syncthreads();
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += expf(float(in[i]) - largest);
    partial[threadIdx.x] = sum;
    for (int s = blockDim.x / 2; s >= 1; s >>= 1) {
      __syncthreads();
      if (int(threadIdx.x) < s) partial[threadIdx.x] += partial[threadIdx.x + s];
    }
    __syncthreads();
    const float log_sum = logf(partial[0]);
    __syncthreads();
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[row * width + i] = T(expf(float(in[i]) - largest - log_sum));
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
