// Writes of the value that is there already harm nobody: the first kernels are correct, the last ones are not (BUG).

__device__ float warp_max(float v) {
    for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}
__device__ float warp_total(float v) {
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

// Softmax in one pass. All lanes of a warp store the warp's pair, in each turn of the loop over rows.
extern "C" __global__ void online_softmax(const float* x, float* y, int rows, int cols) {
    __shared__ float2 pairs[32];
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        float most = -INFINITY, sum = 0.0f;
        for (int c = threadIdx.x; c < cols; c += blockDim.x) {
            float v = x[row * cols + c], higher = fmaxf(most, v);
            sum = sum * expf(most - higher) + expf(v - higher);
            most = higher;
        }
        float warp_most = warp_max(most);
        sum = warp_total(most == -INFINITY ? 0.0f : sum * expf(most - warp_most));
        pairs[warp] = make_float2(warp_most, sum);
        __syncthreads();
        float block_most = -INFINITY, total = 0.0f;
        for (int w = 0; w < warps; w++) block_most = fmaxf(block_most, pairs[w].x);
        for (int w = 0; w < warps; w++) total += pairs[w].y * expf(pairs[w].x - block_most);
        __syncthreads();
        for (int c = threadIdx.x; c < cols; c += blockDim.x)
            y[row * cols + c] = expf(x[row * cols + c] - block_most) / total;
    }
}

// All store, and each reads its own back at once, or after a shuffle; several turns with no barrier between.
template <class T>
__device__ void store_and_read_back(T* s, const T* x, T* y, int turns) {
    const int warp = threadIdx.x / 32;
    T sum = T();
    for (int t = 0; t < turns; t++) {
        s[warp] = x[warp];
        sum += s[warp];
        s[8] = x[0];
        __shfl_xor_sync(0xffffffffu, t, 1);
        sum += s[8];
    }
    y[threadIdx.x] = sum;
}
extern "C" __global__ void read_back_int(const int* x, int* y, int turns) {
    __shared__ int s[9];
    store_and_read_back(s, x, y, turns);
}
extern "C" __global__ void read_back_double(const double* x, double* y, int turns) {
    extern __shared__ double d[];
    store_and_read_back(d, x, y, turns);
}
extern "C" __global__ void read_back_float4(const float4* x, float4* y) {
    __shared__ float4 s[2];
    s[0] = x[0];
    float4 v = s[0];
    s[1] = v;
    y[threadIdx.x] = s[1];
}

// A flag that is up already: whoever sets it again changes nothing, and others may look at it meanwhile.
extern "C" __global__ void flag_is_up(const int* x, int* y) {
    __shared__ int flag;
    if (threadIdx.x == 0) flag = 1;
    __syncthreads();
    int seen = flag;
    if (x[threadIdx.x] > 0) flag = 1;
    seen += flag;
    y[threadIdx.x] = seen;
}
extern "C" __global__ void global_flag(const int* x, int* flag, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && x[i] > 0) *flag = 1;
}
extern "C" __global__ void global_flag_read_back(int* flag, int* y) {
    *flag = 1;
    int seen = *flag;
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = seen + *flag;
}

struct Statistics {
    double sums[4];
    int n;
};
extern "C" __global__ void struct_by_all(const double* x, Statistics* y) {
    Statistics s = {{x[0], x[1], x[2], x[3]}, 4};
    *y = s;
}

// --- not correct -----------------------------------------------------------------------------------------------------
extern "C" __global__ void reads_what_may_come(const int* x, int* y) {
    __shared__ int flag;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    if (threadIdx.x < 32) flag = 1;  // BUG
    y[threadIdx.x] = flag;  // BUG
}
extern "C" __global__ void one_of_two_differs(const float2* x, float2* y) {
    __shared__ float2 pair;
    pair = make_float2(1.0f, x[threadIdx.x].y);  // BUG
    __syncthreads();  // BUG
    y[threadIdx.x] = pair;
}
extern "C" __global__ void another_value_after_the_same(const int* x, int* y) {
    __shared__ int s;
    s = 1;  // BUG
    int other = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);  // BUG
    if (other == 41) s = 2;  // BUG
    __syncthreads();  // BUG
    y[threadIdx.x] = s;
}
extern "C" __global__ void global_flag_of_two_values(const int* x, int* flag) {
    *flag = threadIdx.x / 16;  // BUG
}  // BUG
extern "C" __global__ void global_flag_looked_at(const int* x, int* y) {
    if (threadIdx.x == 0) y[64] = 1;  // BUG
    y[threadIdx.x] = y[64];  // BUG
}
