// diagnosis: lane
// kernel: warp_shuffle.cu

#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr unsigned ALL_LANES = 0xffffffff;

__device__ float warp_max(float value) {
  // practice: begin
  for (int bit = 16; bit > 0; bit /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, bit));
  return value;
  // practice: end
}

__device__ float warp_sum(float value) {
  // practice: begin
  for (int bit = 16; bit > 0; bit /= 2) value += __shfl_xor_sync(ALL_LANES, value, bit);
  return value;
  // practice: end
}

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  // practice: begin
  const int lane = threadIdx.x;
  const long long n_warps = (long long)gridDim.x * blockDim.y;
  // All lanes of a warp have the same row, so they leave the loop together: a shuffle must not miss a lane.
  for (long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y; row < n_rows; row += n_warps) {
    const T* x_row = x + row * width;
    float largest = -INFINITY;
    for (int i = lane; i < width; i += warpSize) largest = fmaxf(largest, float(x_row[i]));
    if (lane < width) largest = warp_max(largest);
    float sum = 0;
    for (int i = lane; i < width; i += warpSize) sum += expf(float(x_row[i]) - largest);
    sum = warp_sum(sum);
    for (int i = lane; i < width; i += warpSize) out[row * width + i] = T(expf(float(x_row[i]) - largest) / sum);
  }
  // practice: end
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
