// What warps may do without a barrier, and what they do in lockstep: test_warps.py says what the results are.

// One atomic per warp for all lanes that take the branch together.
extern "C" __global__ void aggregated_count(const int* x, int* count, int* places, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || x[i] <= 0) return;
    unsigned mask = __activemask();
    int lane = threadIdx.x % 32, leader = __ffs(mask) - 1, first = 0;
    if (lane == leader) first = atomicAdd(count, __popc(mask));
    first = __shfl_sync(mask, first, leader);
    places[i] = first + __popc(mask & ((1u << lane) - 1));
}

// Both ways of a branch have lanes, and each way has a mask of its own.
extern "C" __global__ void masks_of_a_branch(const int* x, unsigned* masks, int* sums) {
    int i = threadIdx.x, v = x[i];
    unsigned mask;
    if (v % 2) {
        mask = __activemask();
        for (int d = 0; d < 32; d++)
            if (mask >> d & 1) sums[i] += __shfl_sync(mask, v, d);
    } else {
        mask = __activemask();
        sums[i] = __popc(__ballot_sync(mask, v > 4));
    }
    masks[i] = mask;
}

// Each lane leaves the loop in its own time.
extern "C" __global__ void masks_of_a_loop(const int* x, unsigned* masks) {
    for (int k = 0; k < x[threadIdx.x]; k++) masks[64 * k + threadIdx.x] = __activemask();
}

struct Scaled {
    float x;
    double y;
    Scaled(float x, double y) : x(x), y(y) {}
    Scaled(const Scaled& other) : x(other.x), y(other.y) {}
};
struct __align__(16) Wide {
    float v[8];
    Wide(const Wide& other) {
        for (int i = 0; i < 8; i++) v[i] = other.v[i];
    }
};
extern "C" __global__ void arguments_with_constructors(float* y, int n, char c, Scaled a, Wide w) {
    y[threadIdx.x] = a.x + a.y + w.v[threadIdx.x % 8] + c + n;
}

// --- code from before Volta: the steps of a warp in lockstep, with no __syncwarp() between ----------------------------

template <class T, int BLOCK>
__device__ void reduce_in_lockstep(const T* x, T* y, int n) {
    __shared__ T sums[BLOCK];
    const int tid = threadIdx.x;
    T sum = 0;
    for (int i = blockIdx.x * BLOCK + tid; i < n; i += gridDim.x * BLOCK) sum = sum + x[i];
    sums[tid] = sum;
    __syncthreads();
    if (BLOCK >= 128) {
        if (tid < 64) sums[tid] = sums[tid] + sums[tid + 64];
        __syncthreads();
    }
    if (tid < 32) {
        volatile T* s = sums;
        s[tid] = s[tid] + s[tid + 32];  // LOCKSTEP
        s[tid] = s[tid] + s[tid + 16];  // LOCKSTEP
        s[tid] = s[tid] + s[tid + 8];   // LOCKSTEP
        s[tid] = s[tid] + s[tid + 4];   // LOCKSTEP
        s[tid] = s[tid] + s[tid + 2];   // LOCKSTEP
        s[tid] = s[tid] + s[tid + 1];   // LOCKSTEP
    }
    if (tid == 0) y[blockIdx.x] = sums[0];
}
extern "C" __global__ void sum_int(const int* x, int* y, int n) { reduce_in_lockstep<int, 128>(x, y, n); }
extern "C" __global__ void sum_float(const float* x, float* y, int n) { reduce_in_lockstep<float, 64>(x, y, n); }
extern "C" __global__ void sum_double(const double* x, double* y, int n) { reduce_in_lockstep<double, 64>(x, y, n); }

// A complex number as two arrays, in dynamic shared memory; lanes that are done leave the steps to the others.
extern "C" __global__ void sum_complex(const float* x, float* y) {
    extern __shared__ float parts[];
    volatile float* re = parts;
    volatile float* im = parts + 32;
    const int tid = threadIdx.x;
    re[tid] = x[2 * tid];
    im[tid] = x[2 * tid + 1];
    __syncthreads();
    for (int half = 16; half > 0; half /= 2)
        if (tid < half) {
            re[tid] += re[tid + half];  // LOCKSTEP
            im[tid] += im[tid + half];  // LOCKSTEP
        }
    if (tid == 0) y[0] = re[0], y[1] = im[0];
}

// The same with __syncwarp(): nothing to warn of.
extern "C" __global__ void sum_with_syncwarp(const float* x, float* y) {
    __shared__ volatile float s[32];
    const int lane = threadIdx.x;
    s[lane] = x[lane];
    __syncwarp();
    for (int half = 16; half > 0; half /= 2) {
        float sum = s[lane] + s[lane ^ half];
        __syncwarp();
        s[lane] = sum;
        __syncwarp();
    }
    y[lane] = s[lane];
}

// Lockstep is for one warp: two of them race.
extern "C" __global__ void two_warps_without_barrier(const float* x, float* y) {
    __shared__ float line[64];
    volatile float* s = line;
    s[threadIdx.x] = x[threadIdx.x];       // BUG
    y[threadIdx.x] = s[63 - threadIdx.x];  // BUG
}
// Two lanes write different values in one step: nobody knows which one stays.
extern "C" __global__ void two_values_in_one_step(const int* x, int* y) {
    __shared__ int word;
    *(volatile int*)&word = x[threadIdx.x];  // BUG
    __syncthreads();  // BUG
    y[threadIdx.x] = word;
}
extern "C" __global__ void spins_for_ever(int* y) {
    __shared__ int flag;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    while (*(volatile int*)&flag == 0) {}  // BUG
    y[threadIdx.x] = 1;
}
