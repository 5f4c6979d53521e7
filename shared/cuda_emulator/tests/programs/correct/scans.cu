// Prefix sums: Hillis-Steele with two buffers, Blelloch's work-efficient tree, and many blocks with their sums added afterwards.
#include <stdio.h>
#include <stdlib.h>

#define gpuErrchk(ans) { gpuAssert((ans), __FILE__, __LINE__); }
inline void gpuAssert(cudaError_t code, const char* file, int line, bool abort = true) {
    if (code != cudaSuccess) {
        fprintf(stderr, "GPUassert: %s %s %d\n", cudaGetErrorString(code), file, line);
        if (abort) exit(code);
    }
}

#define N 128

__global__ void hillis_steele(const int* in, int* out, int n) {
    __shared__ int temp[2 * N];
    int tid = threadIdx.x, pout = 0, pin = 1;
    temp[tid] = tid < n ? in[tid] : 0;
    __syncthreads();
    for (int offset = 1; offset < n; offset *= 2) {
        pout = 1 - pout;
        pin = 1 - pout;
        temp[pout * N + tid] = temp[pin * N + tid] + (tid >= offset ? temp[pin * N + tid - offset] : 0);
        __syncthreads();
    }
    if (tid < n) out[tid] = temp[pout * N + tid];
}

// Exclusive; each thread has two elements.
__global__ void blelloch(const int* in, int* out, int* block_sums) {
    extern __shared__ int s[];
    int tid = threadIdx.x, n = 2 * blockDim.x, base = blockIdx.x * n, offset = 1;
    s[2 * tid] = in[base + 2 * tid];
    s[2 * tid + 1] = in[base + 2 * tid + 1];
    for (int d = n >> 1; d > 0; d >>= 1) {
        __syncthreads();
        if (tid < d) s[offset * (2 * tid + 2) - 1] += s[offset * (2 * tid + 1) - 1];
        offset *= 2;
    }
    if (tid == 0) {
        if (block_sums) block_sums[blockIdx.x] = s[n - 1];
        s[n - 1] = 0;
    }
    for (int d = 1; d < n; d *= 2) {
        offset >>= 1;
        __syncthreads();
        if (tid < d) {
            int left = offset * (2 * tid + 1) - 1, right = offset * (2 * tid + 2) - 1;
            int t = s[left];
            s[left] = s[right];
            s[right] += t;
        }
    }
    __syncthreads();
    out[base + 2 * tid] = s[2 * tid];
    out[base + 2 * tid + 1] = s[2 * tid + 1];
}

__global__ void add_block_sums(int* out, const int* sums) { out[blockIdx.x * blockDim.x + threadIdx.x] += sums[blockIdx.x]; }

int main(void) {
    const int blocks = 8, total = blocks * N;
    int in[total], out[total], i, sum, errors = 0;
    for (i = 0; i < total; i++) in[i] = i % 7 - 2;
    int *d_in, *d_out, *d_sums, *d_offsets;
    gpuErrchk(cudaMalloc((void**)&d_in, total * sizeof(int)));
    gpuErrchk(cudaMalloc((void**)&d_out, total * sizeof(int)));
    gpuErrchk(cudaMalloc((void**)&d_sums, blocks * sizeof(int)));
    gpuErrchk(cudaMalloc((void**)&d_offsets, blocks * sizeof(int)));
    gpuErrchk(cudaMemcpy(d_in, in, total * sizeof(int), cudaMemcpyHostToDevice));

    hillis_steele<<<1, N>>>(d_in, d_out, 100);
    gpuErrchk(cudaPeekAtLastError());
    gpuErrchk(cudaDeviceSynchronize());
    gpuErrchk(cudaMemcpy(out, d_out, 100 * sizeof(int), cudaMemcpyDeviceToHost));
    for (i = 0, sum = 0; i < 100; i++) {
        sum += in[i];
        if (out[i] != sum) errors++;
    }
    printf("Hillis-Steele: %d errors\n", errors);

    blelloch<<<blocks, N / 2, N * sizeof(int)>>>(d_in, d_out, d_sums);
    blelloch<<<1, blocks / 2, blocks * sizeof(int)>>>(d_sums, d_offsets, NULL);
    add_block_sums<<<blocks, N>>>(d_out, d_offsets);
    gpuErrchk(cudaPeekAtLastError());
    gpuErrchk(cudaMemcpy(out, d_out, total * sizeof(int), cudaMemcpyDeviceToHost));
    for (i = 0, sum = 0; i < total; i++) {
        if (out[i] != sum) errors++;
        sum += in[i];
    }
    printf("Blelloch: %d errors in all\n", errors);
    cudaFree(d_in); cudaFree(d_out); cudaFree(d_sums); cudaFree(d_offsets);
    return errors ? 1 : 0;
}
