// Slow on purpose: the threads of a warp take turns, eight lanes at a time.
//
// A warp has one instruction pointer for its 32 threads. Where a branch sends them different ways, it walks every way
// in turn, with the other lanes switched off. The bytes stay the same here, the instructions become four times as many.

#include <cuda_fp16.h>

template <typename T>
__device__ void add(const T* a, const T* b, T* out, long long n) {
  const int lane = threadIdx.x % warpSize;
  const long long n_threads = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += n_threads) {
#pragma unroll 1
    for (int turn = 0; turn < 4; turn++) {
      if (lane / 8 == turn) out[i] = a[i] + b[i];
    }
  }
}

extern "C" __global__ void add_float16(const __half* a, const __half* b, __half* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float32(const float* a, const float* b, float* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float64(const double* a, const double* b, double* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_int32(const int* a, const int* b, int* out, long long n) { add(a, b, out, n); }
