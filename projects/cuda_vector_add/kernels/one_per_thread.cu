// One thread adds one element: the grid holds at least as many threads as the arrays hold elements.
//
// n may be more than 2^32, so indices are 64 bits wide. out may be a or b itself.
//
// A warp is 32 threads in step. Neighbouring threads take neighbouring elements, so each load of a warp is one
// contiguous piece of memory: it is coalesced.

#include <cuda_fp16.h>

template <typename T>
__device__ void add(const T* a, const T* b, T* out, long long n) {
  // practice: begin
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;  // widened before it is multiplied
  if (i < n) out[i] = a[i] + b[i];  // the last block has more threads than elements are left
  // practice: end
}

extern "C" __global__ void add_float16(const __half* a, const __half* b, __half* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float32(const float* a, const float* b, float* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float64(const double* a, const double* b, double* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_int32(const int* a, const int* b, int* out, long long n) { add(a, b, out, n); }
