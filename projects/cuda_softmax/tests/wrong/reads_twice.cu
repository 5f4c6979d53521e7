// diagnosis: are enough
// kernel: single_read.cu

#include <cfloat>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr unsigned ALL_LANES = 0xffffffff;

// As in online.cu: the largest value of some elements, and the sum of exp(element - largest) over them.
struct Running {
  float largest, sum;
};

__device__ Running nothing() { return {-FLT_MAX, 0}; }

__device__ Running merge(Running a, Running b) {
  const float largest = fmaxf(a.largest, b.largest);
  return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

__device__ Running merge_warp(Running mine) {
  for (int bit = 16; bit > 0; bit /= 2) {
    const Running other = {__shfl_xor_sync(ALL_LANES, mine.largest, bit), __shfl_xor_sync(ALL_LANES, mine.sum, bit)};
    mine = merge(mine, other);
  }
  return mine;
}

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width, int n_cached) {
  __shared__ Running of_warp[32];
  extern __shared__ float cache[];  // n_cached elements, as many as the launch asked for
  // practice: begin
  const int lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize, n_warps = blockDim.x / warpSize;
  for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const T* x_row = x + row * width;
    Running running = nothing();
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      const float value = float(x_row[i]);
      if (i < n_cached) cache[i] = value;
      running = merge(running, {value, 1});
    }

    running = merge_warp(running);
    if (lane == 0) of_warp[warp] = running;
    __syncthreads();
    running = merge_warp(lane < n_warps ? of_warp[lane] : nothing());
    __syncthreads();  // all warps have read of_warp before the next row writes it

    // Each thread reads back only what it wrote itself, so the cache needs no barrier of its own.
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      const float value = float(x_row[i]);
      out[row * width + i] = T(expf(value - running.largest) / running.sum);
    }
  }
  // practice: end
}

extern "C" __global__ void softmax_float16(const __half* x, __half* out, long long n_rows, int width, int n_cached) {
  softmax(x, out, n_rows, width, n_cached);
}
extern "C" __global__ void softmax_bfloat16(
    const __nv_bfloat16* x, __nv_bfloat16* out, long long n_rows, int width, int n_cached) {
  softmax(x, out, n_rows, width, n_cached);
}
extern "C" __global__ void softmax_float32(const float* x, float* out, long long n_rows, int width, int n_cached) {
  softmax(x, out, n_rows, width, n_cached);
}
