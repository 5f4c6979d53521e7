// diagnosis: misaligned
// kernel: vectorized.cu

#include <cuda_fp16.h>

template <typename T>
__device__ void add(const T* a, const T* b, T* out, long long n) {
  constexpr int per_pack = sizeof(int4) / sizeof(T);
  const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long n_threads = (long long)gridDim.x * blockDim.x;

  // One head serves all three arrays only if they lie equally far from a 16-byte boundary; if not, all is head.
  const size_t offset = (size_t)out % sizeof(int4);
  const bool together = (size_t)a % sizeof(int4) == offset && (size_t)b % sizeof(int4) == offset;
  long long head = (sizeof(int4) - offset) % sizeof(int4) / sizeof(float);
  if (!together || head > n) head = n;

  const long long n_packs = (n - head) / per_pack;
  for (long long i = thread; i < n_packs; i += n_threads) {
    const int4 pack_a = reinterpret_cast<const int4*>(a + head)[i];
    const int4 pack_b = reinterpret_cast<const int4*>(b + head)[i];
    int4 sum;
    for (int k = 0; k < per_pack; k++) {
      reinterpret_cast<T*>(&sum)[k] = reinterpret_cast<const T*>(&pack_a)[k] + reinterpret_cast<const T*>(&pack_b)[k];
    }
    reinterpret_cast<int4*>(out + head)[i] = sum;
  }
  for (long long i = thread; i < head; i += n_threads) out[i] = a[i] + b[i];
  for (long long i = head + n_packs * per_pack + thread; i < n; i += n_threads) out[i] = a[i] + b[i];
}

extern "C" __global__ void add_float16(const __half* a, const __half* b, __half* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float32(const float* a, const float* b, float* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_float64(const double* a, const double* b, double* out, long long n) { add(a, b, out, n); }
extern "C" __global__ void add_int32(const int* a, const int* b, int* out, long long n) { add(a, b, out, n); }
