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
