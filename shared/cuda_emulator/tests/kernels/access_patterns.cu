// Access patterns whose sectors, wavefronts and branches can be counted by hand.
// profile: strided<<<1, 32>>>(float[256], float[32], 8, 0)

extern "C" __global__ void strided(const float* x, float* y, int stride, int offset) {
    y[threadIdx.x] = x[stride * threadIdx.x + offset];
}

extern "C" __global__ void vector(const float* x, float* y) {
    float4 v = reinterpret_cast<const float4*>(x)[threadIdx.x];
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}

extern "C" __global__ void guarded(float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 1.0f;
}

extern "C" __global__ void banks(float* y, int stride) {
    extern __shared__ float tile[];
    for (int i = threadIdx.x; i < 32 * 34; i += 32) tile[i] = i;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x * stride];
}

extern "C" __global__ void banks_vector(float* y) {
    __shared__ float4 tile[32];
    tile[threadIdx.x] = make_float4(1.0f, 2.0f, 3.0f, 4.0f);
    __syncthreads();
    float4 v = tile[threadIdx.x];
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}

extern "C" __global__ void branches(float* y) {
    if (threadIdx.x % 2 == 0)  // ODD
        y[threadIdx.x] = expf(y[threadIdx.x]);
    else
        y[threadIdx.x] = logf(2.0f + y[threadIdx.x]);
    if (threadIdx.x / 32 == 0)  // WARP
        y[threadIdx.x] = expf(y[threadIdx.x]);
    else
        y[threadIdx.x] = logf(2.0f + y[threadIdx.x]);
}

extern "C" __global__ void naive_matmul(const float* a, const float* b, float* c, int n) {
    int row = threadIdx.y, col = threadIdx.x;
    float sum = 0.0f;
    for (int k = 0; k < n; k++) sum += a[row * n + k] * b[k * n + col];
    c[row * n + col] = sum;
}

extern "C" __global__ void adds(int* y) { atomicAdd(y, 1); }
