// One block computes one row: each thread takes every blockDim.x-th element, and the block combines what they found.
//
// partial has room for one number of each thread. There may be fewer blocks than rows: each goes on to further rows, gridDim.x apart. T and sizes are as in naive.cu.
//
// The combination is a tree in shared memory: half of the threads fold the other half's values into their own, again
// and again. It needs a power of two threads, and a barrier after each step. Still three passes over the row, but
// neighbouring threads read neighbouring elements.
// profile: softmax_float32<<<4, 128>>>(float[4, 1024], float[4, 1024], 4ll, 1024)

#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T>
__device__ void softmax(const T* x, T* out, long long n_rows, int width) {
  __shared__ float partial[1024];
  // practice: begin
  for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const T* x_row = x + row * width;
    float largest = -INFINITY;
    for (int i = threadIdx.x; i < width; i += blockDim.x) largest = fmaxf(largest, float(x_row[i]));
    partial[threadIdx.x] = largest;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) partial[threadIdx.x] = fmaxf(partial[threadIdx.x], partial[threadIdx.x + half]);
      __syncthreads();
    }
    largest = partial[0];
    __syncthreads();  // everybody has read partial[0] before anybody writes the sums over it

    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += expf(float(x_row[i]) - largest);
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
      __syncthreads();
    }
    sum = partial[0];
    __syncthreads();  // the same before the next row

    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      out[row * width + i] = T(expf(float(x_row[i]) - largest) / sum);
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
