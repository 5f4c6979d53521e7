// diagnosis: values differ
// kernel: online.cu

#include <cfloat>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr unsigned ALL_LANES = 0xffffffff;

// The largest value of some elements, and the sum of exp(element - largest) over them.
struct Running {
  float largest, sum;
};

// No elements. Not -INFINITY: merging two of those would compute exp(-inf + inf), which is NaN.
__device__ Running nothing() { return {-FLT_MAX, 0}; }

__device__ Running merge(Running a, Running b) {
  // practice: begin
  const float largest = fmaxf(a.largest, b.largest);
  return {largest, a.sum + b.sum * expf(b.largest - largest)};
  // practice: end
}

__device__ Running merge_warp(Running mine) {
  // practice: begin
  for (int bit = 16; bit > 0; bit /= 2) {
    const Running other = {__shfl_xor_sync(ALL_LANES, mine.largest, bit), __shfl_xor_sync(ALL_LANES, mine.sum, bit)};
    mine = merge(mine, other);
  }
  return mine;
  // practice: end
}

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  __shared__ Running of_warp[32];
  // practice: begin
  const int lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize, n_warps = blockDim.x / warpSize;
  for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const T* x_row = x + row * width;
    Running running = nothing();
    for (int i = threadIdx.x; i < width; i += blockDim.x) running = merge(running, {float(x_row[i]), 1});

    running = merge_warp(running);
    if (lane == 0) of_warp[warp] = running;
    __syncthreads();
    running = merge_warp(lane < n_warps ? of_warp[lane] : nothing());  // each warp does it, so no broadcast is needed
    __syncthreads();  // all warps have read of_warp before the next row writes it

    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      out[row * width + i] = T(expf(float(x_row[i]) - running.largest) / running.sum);
    }
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
