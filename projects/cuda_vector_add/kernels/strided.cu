// Slow on purpose: each thread adds a contiguous piece of its own, as one would share the work out on a CPU.
//
// The 32 threads of a warp are then a whole piece apart. Each of them touches its own 32-byte sector and uses 4 bytes
// of it, so a warp moves up to eight times the bytes it needs: the access is not coalesced.
// profile: add_float32<<<4, 64>>>(float[8192], float[8192], float[8192], 8192ll)

#include <cuda_fp16.h>

template <typename T>
__device__ void add(const T* a, const T* b, T* out, long long n) {
  const long long n_threads = (long long)gridDim.x * blockDim.x;
  const long long piece = (n + n_threads - 1) / n_threads;
  const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * piece;
  for (long long i = first; i < first + piece && i < n; i++) {
    out[i] = a[i] + b[i];
  }
}

extern "C" __global__ void add_float16(const __half* a, const __half* b, __half* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float32(const float* a, const float* b, float* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float64(const double* a, const double* b, double* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_int32(const int* a, const int* b, int* out, long long n) { add(a, b, out, n); }
