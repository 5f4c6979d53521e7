// Races by the letter that do no harm, each with a twin that does. Lines that a report may name are marked "BUG", those
// that a warning names "WARNS".

static __device__ __forceinline__ int thread_in_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }

// --- compare and swap in a loop: the first read is a guess -----------------------------------------------------------
__device__ double add_by_cas(double* sum, double v) {
    auto* word = (unsigned long long*)sum;
    unsigned long long old = *word, assumed;
    do {
        assumed = old;
        old = atomicCAS(word, assumed, (unsigned long long)__double_as_longlong(__longlong_as_double(assumed) + v));
    } while (old != assumed);
    return __longlong_as_double(old);
}
extern "C" __global__ void sum_by_cas(const double* x, double* sum) { add_by_cas(sum, x[thread_in_grid()]); }
extern "C" __global__ void sum_by_cas_in_shared_memory(const double* x, double* sums) {
    __shared__ double sum;
    if (threadIdx.x == 0) sum = 0.0;
    __syncthreads();
    add_by_cas(&sum, x[thread_in_grid()]);
    __syncthreads();
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
// The guess is made anew in each turn, and other memory is read before the CAS.
extern "C" __global__ void most_of_some(const int* x, const int* which, int* most) {
    int guess;
    do guess = *most;
    while (atomicCAS(most, guess, max(guess, x[which[thread_in_grid()]])) != guess);
}
// The lanes read before any of them swaps.
extern "C" __global__ void guesses_of_a_warp(int* sum) {
    int old = *sum, assumed;
    unsigned all = __ballot_sync(0xffffffffu, old >= 0);
    do {
        assumed = old;
        old = atomicCAS(sum, assumed, assumed + __popc(all));
    } while (old != assumed);
}
// A guess that says that there is nothing to do.
extern "C" __global__ void most_by_cas(const float* x, float* most) {
    int* word = (int*)most;
    float v = x[thread_in_grid()];
    int old = *word, assumed;  // WARNS
    do {
        assumed = old;
        if (__int_as_float(assumed) >= v) break;
        old = atomicCAS(word, assumed, __float_as_int(v));  // WARNS
    } while (old != assumed);
}  // WARNS

// Not guesses: what is read goes elsewhere.
extern "C" __global__ void reads_the_sum_of_others(const int* x, int* sum, int* y) {
    atomicAdd(sum, x[thread_in_grid()]);  // BUG
    y[thread_in_grid()] = *sum;  // BUG
}
extern "C" __global__ void reads_the_sum_of_others_twice(const int* x, int* sum, int* y) {
    for (int turn = 0; turn < 2; turn++) {
        atomicAdd(sum, x[thread_in_grid()]);  // BUG
        y[thread_in_grid()] = *sum;  // BUG
    }
}
extern "C" __global__ void takes_while_there_are_some(const int* x, int* count, int* y) {
    if (*count < 40) atomicAdd(count, 1);  // BUG
}  // BUG
extern "C" __global__ void swaps_for_what_it_has_not_read(const int* x, int* word, int* y) {
    int seen = *word;  // BUG
    atomicCAS(word, seen + 1, thread_in_grid());  // BUG
    atomicAdd(word, 1);  // BUG
    y[thread_in_grid()] = seen;
}  // BUG
extern "C" __global__ void looks_before_it_guesses(const int* x, int* sum, int* y) {
    if (thread_in_grid() == 3) y[0] = *sum;  // BUG
    int old = *sum, assumed;
    do {
        assumed = old;
        old = atomicCAS(sum, assumed, assumed + 1);  // BUG
    } while (old != assumed);
}
extern "C" __global__ void guess_in_shared_memory_goes_elsewhere(const int* x, int* word, int* y) {
    __shared__ int sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, 1);  // BUG
    int seen = sum;  // BUG
    __syncthreads();  // BUG
    y[thread_in_grid()] = seen;
}

// --- test, then set --------------------------------------------------------------------------------------------------
extern "C" __global__ void next_level(const int* edges, int* distance, int* changed, int n, int level) {
    int i = thread_in_grid();
    if (i >= n || distance[i] != level) return;  // WARNS
    for (int e = 0; e < 4; e++) {
        int j = edges[4 * i + e];
        if (distance[j] == -1) {  // WARNS
            distance[j] = level + 1;  // WARNS
            *changed = 1;
        }
    }
}  // WARNS
extern "C" __global__ void visit(const int* edges, const bool* now, bool* seen, int n) {
    int i = thread_in_grid();
    if (i >= n || !now[i]) return;
    for (int e = 0; e < 4; e++)
        if (!seen[edges[4 * i + e]]) seen[edges[4 * i + e]] = true;  // WARNS
}  // WARNS
extern "C" __global__ void stops_when_found(const int* x, int* found) {
    if (*found) return;  // WARNS
    if (x[thread_in_grid()] == 7) *found = 1;  // WARNS
}  // WARNS

extern "C" __global__ void numbers_what_it_finds(const int* x, int* found, int* y) {
    for (int k = 0; k < 2; k++)
        if (found[k] == 0) found[k] = x[thread_in_grid()] + 10 * k + 1;  // BUG
}  // BUG
extern "C" __global__ void one_is_the_most(const int* x, int* most, int* y) {
    if (x[thread_in_grid()] > *most) *most = x[thread_in_grid()];  // BUG
}  // BUG
extern "C" __global__ void stores_what_it_tests(const int* x, int* found, int* y) {
    int seen = *found;  // BUG
    if (seen == 0 && x[thread_in_grid()] == 7) *found = 1;  // BUG
    y[thread_in_grid()] = seen;  // BUG
}  // BUG
extern "C" __global__ void sums_what_it_tests(const int* x, int* found, int* y) {
    if (x[thread_in_grid()] == 7) *found = 1;  // BUG
    if (*found == 1) atomicAdd(y, 1);  // BUG
}  // BUG
extern "C" __global__ void hands_on_what_it_tests(const int* x, int* found, int* y) {
    if (x[thread_in_grid()] == 7) *found = 1;  // BUG
    if (__syncthreads_or(*found == 0)) y[threadIdx.x] = 1;  // BUG
}  // BUG
extern "C" __global__ void keeps_what_it_tests(const int* x, int* found, int* y) {
    int seen = *found;  // BUG
    if (seen == 0 && x[thread_in_grid()] == 7) *found = 1;  // BUG
    __syncthreads();
    if (threadIdx.x % 2) y[thread_in_grid()] = seen;  // BUG
}  // BUG
extern "C" __global__ void two_values(const int* x, int* found, int* y) {
    if (x[thread_in_grid()] == 7) {
        *found = 1;  // BUG
        atomicAdd(y, 1);
        *found = 2;  // BUG
    }
    if (*found == 1) return;  // BUG
}  // BUG
extern "C" __global__ void adds_its_neighbour(int* x, int* found, int* y) {
    int i = thread_in_grid(), sum = 0;
    for (int k = 1; k >= 0; k--) sum += x[(i + k) % 64];  // BUG
    x[i] = sum;  // BUG
}  // BUG

// --- a warp reads, shuffles and writes -------------------------------------------------------------------------------
__device__ int sum_of_warp(int v) {
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
extern "C" __global__ void sums_of_warps(const int* x, int* y) {
    __shared__ int s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int sum = sum_of_warp(s[threadIdx.x]);
    if (threadIdx.x % 32 == 0) s[threadIdx.x + 1] = sum;  // WARNS
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x / 32 * 32 + 1];
}
extern "C" __global__ void sums_of_warps_in_global_memory(int* x, int* y) {
    int sum = sum_of_warp(x[threadIdx.x]);
    if (threadIdx.x % 32 == 0) x[threadIdx.x + 1] = sum;  // WARNS
    __syncthreads();
    y[threadIdx.x] = x[threadIdx.x / 32 * 32 + 1];
}
extern "C" __global__ void sums_of_warps_with_syncwarp(const int* x, int* y) {
    __shared__ int s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int sum = sum_of_warp(s[threadIdx.x]);
    __syncwarp();
    if (threadIdx.x % 32 == 0) s[threadIdx.x + 1] = sum;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x / 32 * 32 + 1];
}

extern "C" __global__ void reads_again_after_the_shuffle(const int* x, int* y) {
    __shared__ int s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int sum = sum_of_warp(s[threadIdx.x / 32]);
    if (threadIdx.x % 32 == 5) sum += s[1];  // BUG
    if (threadIdx.x == 7) s[1] = s[1] + sum;  // BUG
    __syncthreads();  // BUG
    y[threadIdx.x] = sum + s[1];
}
extern "C" __global__ void the_other_warp_reads(const int* x, int* y) {
    __shared__ int s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int sum = sum_of_warp(s[threadIdx.x % 32]);  // BUG
    if (threadIdx.x == 0) s[1] = sum;  // BUG
    __syncthreads();  // BUG
    y[threadIdx.x] = sum + s[1];
}
extern "C" __global__ void half_of_the_warp_shuffles(const int* x, int* y) {
    __shared__ int s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int sum = s[threadIdx.x ^ 16];  // BUG
    if (threadIdx.x % 32 < 16) sum += __shfl_xor_sync(0xffffu, sum, 1);
    if (threadIdx.x % 32 == 0) s[threadIdx.x + 1] = sum;  // BUG
    __syncthreads();  // BUG
    y[threadIdx.x] = sum + s[1];
}
extern "C" __global__ void writes_shuffles_and_writes(const int* x, int* y) {
    __shared__ int s[64];
    s[threadIdx.x / 2] = 1;
    __syncthreads();
    if (threadIdx.x % 32 == 1) s[threadIdx.x / 32] = x[threadIdx.x];  // BUG
    int sum = sum_of_warp(x[threadIdx.x]);
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = sum;  // BUG
    __syncthreads();  // BUG
    y[threadIdx.x] = s[threadIdx.x / 32];
}
