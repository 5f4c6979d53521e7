// One thread computes one row, in three passes: the largest value, the sum of exponentials, the result.
//
// x is n_rows x width, row-major; rows are counted along blockIdx.x and threadIdx.x, and a block may have any number of threads.
// T is float, or a two-byte type: read float(x[i]), compute in float, write T(value). An array may have more than 2^31 elements: offsets are 64 bits wide.
//
// Every element is read three times and written once. Neighbouring threads read a whole row apart, so nothing is
// coalesced; and with fewer rows than the device has threads, most of it is idle.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  // practice: begin
  const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= n_rows) return;
  x += row * width;
  out += row * width;

  float largest = -INFINITY;
  for (int i = 0; i < width; i++) largest = fmaxf(largest, float(x[i]));
  float sum = 0;
  for (int i = 0; i < width; i++) sum += expf(float(x[i]) - largest);  // at most exp(0): nothing overflows
  for (int i = 0; i < width; i++) out[i] = T(expf(float(x[i]) - largest) / sum);
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
