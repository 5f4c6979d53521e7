// Races in global memory, each beside its correct twin. Lines that a report may name are marked "BUG".

static __device__ __forceinline__ int thread_in_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }

// --- updates that get lost -------------------------------------------------------------------------------------------
extern "C" __global__ void histogram_lost(const int* x, int* bins, int n) {
    int i = thread_in_grid();
    if (i < n) bins[x[i]]++;  // BUG
}
extern "C" __global__ void histogram(const int* x, int* bins, int n) {
    int i = thread_in_grid();
    if (i < n) atomicAdd(&bins[x[i]], 1);
}
extern "C" __global__ void sum_of_blocks_lost(const int* x, int* sum) {
    int any = __syncthreads_count(x[thread_in_grid()] > 0);
    if (threadIdx.x == 0) sum[0] += any;  // BUG
}
extern "C" __global__ void sum_of_blocks(const int* x, int* sum) {
    int any = __syncthreads_count(x[thread_in_grid()] > 0);
    if (threadIdx.x == 0) atomicAdd(sum, any);
}

// --- in place --------------------------------------------------------------------------------------------------------
extern "C" __global__ void shift_in_place(int* a, int n) {
    int i = thread_in_grid();
    if (i < n - 1) a[i] = a[i + 1];  // BUG
}
extern "C" __global__ void shift_block_in_place(int* a) {  // of one block each
    int i = thread_in_grid(), last = (blockIdx.x + 1) * blockDim.x - 1;
    int v = i < last ? a[i + 1] : a[i];
    __syncthreads();
    a[i] = v;
}
extern "C" __global__ void transpose_in_place(int* a, int n) {
    int row = threadIdx.y, col = threadIdx.x;
    if (row < n && col < n) a[row * n + col] = a[col * n + row];  // BUG
}
extern "C" __global__ void scale_in_place(float* a, int n) {
    for (int i = thread_in_grid(); i < n; i += gridDim.x * blockDim.x) a[i] *= 2.0f;
}
extern "C" __global__ void smooth_bytes_in_place(unsigned char* a, int n) {
    int i = thread_in_grid();
    if (i > 0 && i < n) a[i] = (a[i - 1] + a[i]) / 2;  // BUG
}
extern "C" __global__ void invert_bytes_in_place(unsigned char* a, int n) {
    int i = thread_in_grid();
    if (i < n) a[i] = 255 - a[i];
}

extern "C" __global__ void last_thread_writes_what_all_read(int* a, int* y, int n) {
    int i = thread_in_grid();
    y[i] = a[0];  // BUG
    if (i == n - 1) a[0] = -1;  // BUG
}  // BUG

// --- two writers -----------------------------------------------------------------------------------------------------
extern "C" __global__ void scatter_onto_one(const int* where, int* y) {
    y[where[threadIdx.x]] = threadIdx.x;  // BUG
}  // BUG
extern "C" __global__ void scatter(const int* where, int* y) {
    y[where[threadIdx.x]] = threadIdx.x;
}
extern "C" __global__ void neighbour_blocks_overlap(int* y) {
    int i = blockIdx.x * (blockDim.x - 1) + threadIdx.x;
    y[i] = blockIdx.x;  // BUG
}  // BUG

// --- no barrier ------------------------------------------------------------------------------------------------------
extern "C" __global__ void scratch_without_barrier(int* scratch, int* y) {
    scratch[thread_in_grid()] = threadIdx.x;  // BUG
    y[thread_in_grid()] = scratch[blockIdx.x * blockDim.x + (threadIdx.x ^ 32)];  // BUG
}
extern "C" __global__ void scratch_with_barrier(int* scratch, int* y) {
    for (int turn = 0; turn < 3; turn++) {
        scratch[thread_in_grid()] = threadIdx.x + turn;
        __syncthreads();
        y[thread_in_grid()] = scratch[blockIdx.x * blockDim.x + (threadIdx.x ^ 32)];
        __syncthreads();
    }
}
extern "C" __global__ void scratch_of_a_warp(int* scratch, int* y) {
    scratch[thread_in_grid()] = threadIdx.x;
    __syncwarp();
    y[thread_in_grid()] = scratch[thread_in_grid() ^ 1];
}
extern "C" __global__ void scratch_of_a_thread(int* scratch, int* y, int n) {
    int* mine = scratch + n * thread_in_grid();
    for (int i = 0; i < n; i++) mine[i] = i;
    for (int i = 1; i < n; i++) mine[i] += mine[i - 1];
    y[thread_in_grid()] = mine[n - 1];
}
extern "C" __global__ void other_block_has_finished(int* y) {
    if (threadIdx.x == 0) y[blockIdx.x] = 1;  // BUG
    __syncthreads();
    if (threadIdx.x == 0) y[8 + blockIdx.x] = y[(blockIdx.x + 1) % gridDim.x];  // BUG
}

// --- atomics and plain accesses --------------------------------------------------------------------------------------
extern "C" __global__ void resets_what_others_count(int* total) {
    if (threadIdx.x == 0) total[0] = 0;  // BUG
    __syncthreads();
    atomicAdd(total, 1);  // BUG
}
extern "C" __global__ void reads_what_others_count(int* total, int* y) {
    atomicAdd(total, 1);  // BUG
    y[thread_in_grid()] = *total;  // BUG
}
extern "C" __global__ void counts_and_then_reads(int* totals, int* y) {
    atomicAdd(&totals[blockIdx.x], 1);
    __syncthreads();
    y[thread_in_grid()] = totals[blockIdx.x];
}

// --- the last block --------------------------------------------------------------------------------------------------
__device__ unsigned tickets;
// The ticket comes before the write: it says nothing about it.
extern "C" __global__ void last_block_too_early(int* partial, int* y) {
    __shared__ bool last;
    if (threadIdx.x == 0) last = atomicInc(&tickets, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    partial[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x;  // BUG
    __syncthreads();
    if (last) y[threadIdx.x] = partial[threadIdx.x] + partial[blockDim.x + threadIdx.x];  // BUG
}
extern "C" __global__ void last_block(int* partial, int* y) {
    __shared__ bool last;
    partial[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(&tickets, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    int sum = 0;
    for (int b = 0; b < gridDim.x; b++) sum += partial[b * blockDim.x + threadIdx.x];
    y[threadIdx.x] = sum;
}
// A lock, taken by threads of many blocks, and of one.
extern "C" __global__ void under_a_lock(int* lock, int* sum) {
    if (threadIdx.x % 32 != 0) return;
    while (atomicCAS(lock, 0, 1) != 0) {}
    sum[0] += 1;
    sum[1] = sum[1] + sum[0];
    __threadfence();
    atomicExch(lock, 0);
}
// Each block takes the next piece of work, in whatever order.
extern "C" __global__ void take_work(int* next, int* y, int n) {
    __shared__ int i;
    for (;;) {
        __syncthreads();
        if (threadIdx.x == 0) i = atomicAdd(next, 1);
        __syncthreads();
        if (i >= n) return;
        y[i * blockDim.x + threadIdx.x] = i;
    }
}

// --- variables of the file -------------------------------------------------------------------------------------------
__device__ int best, total_of_all;
extern "C" __global__ void best_without_atomic(const int* x) {
    if (x[thread_in_grid()] > best) best = x[thread_in_grid()];  // BUG
}
extern "C" __global__ void best_with_atomic(const int* x) {
    atomicMax(&best, x[thread_in_grid()]);
}
