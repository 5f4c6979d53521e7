// A grid of any size adds arrays of any size: each thread goes on in steps of the whole grid.
//
// n may be more than 2^32, so indices are 64 bits wide. out may be a or b itself.
//
// The grid can now be chosen for the device (a few blocks for each multiprocessor) and the blocks stay for the whole
// array. In every turn the grid works on one contiguous piece, so the loads stay coalesced.

#include <cuda_fp16.h>

template <typename T>
__device__ void add(const T* a, const T* b, T* out, long long n) {
  // practice: begin
  const long long n_threads = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += n_threads) {
    out[i] = a[i] + b[i];
  }
  // practice: end
}

extern "C" __global__ void add_float16(const __half* a, const __half* b, __half* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float32(const float* a, const float* b, float* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float64(const double* a, const double* b, double* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_int32(const int* a, const int* b, int* out, long long n) { add(a, b, out, n); }
