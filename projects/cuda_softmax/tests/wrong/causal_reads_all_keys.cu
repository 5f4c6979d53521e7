// diagnosis: need not be read
// kernel: flash_attention.cu

#include <cfloat>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr unsigned ALL_LANES = 0xffffffff;
constexpr int KEYS = 32;  // one for each lane
constexpr int WARPS = 4, ROWS_PER_WARP = 4, ROWS = WARPS * ROWS_PER_WARP;

__device__ float warp_max(float value) {
  for (int bit = 16; bit > 0; bit /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, bit));
  return value;
}

__device__ float warp_sum(float value) {
  for (int bit = 16; bit > 0; bit /= 2) value += __shfl_xor_sync(ALL_LANES, value, bit);
  return value;
}

// Copies `n_rows` rows of D elements to shared memory, rows of PITCH floats, and zeros below them up to `room` rows.
template <int D, int PITCH, typename T>
__device__ void load_tile(const T* from, float* to, int n_rows, int room) {
  for (int i = threadIdx.x; i < room * D; i += blockDim.x) {
    const int row = i / D, column = i % D;
    to[row * PITCH + column] = row < n_rows ? float(from[(long long)row * D + column]) : 0;
  }
}

// Block (x, y) computes queries ROWS·x … of head y; one launch covers all heads of all batches.
template <int D, typename T>
__device__ void attention(
    const T* query, const T* key, const T* value, T* out, int n_queries, int n_keys, float scale, int causal) {
  __shared__ float q_tile[ROWS * D], v_tile[KEYS * D];
  __shared__ float k_tile[KEYS * (D + 1)];  // one column more: 32 lanes read 32 rows from 32 different banks
  const int lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize;
  const int first_query = blockIdx.x * ROWS;
  query += ((long long)blockIdx.y * n_queries + first_query) * D;
  out += ((long long)blockIdx.y * n_queries + first_query) * D;
  key += (long long)blockIdx.y * n_keys * D;
  value += (long long)blockIdx.y * n_keys * D;

  load_tile<D, D>(query, q_tile, min(ROWS, n_queries - first_query), ROWS);
  // The loops over r and c are unrolled, so that these arrays become registers: registers have no addresses.
  float largest[ROWS_PER_WARP], sum[ROWS_PER_WARP], weighted[ROWS_PER_WARP][D / 32];
#pragma unroll
  for (int r = 0; r < ROWS_PER_WARP; r++) {
    largest[r] = -FLT_MAX;  // not -INFINITY: the first factor would be exp(-inf + inf)
    sum[r] = 0;
    for (int c = 0; c < D / 32; c++) weighted[r][c] = 0;
  }

  // With a causal mask, query i sees keys 0 … i: the tiles after the block's last query are skipped.
  const int n_visible = n_keys;
  for (int first_key = 0; first_key < n_visible; first_key += KEYS) {
    const int n_here = min(KEYS, n_keys - first_key);
    __syncthreads();  // everybody is done with the tile before
    load_tile<D, D + 1>(key + (long long)first_key * D, k_tile, n_here, KEYS);
    load_tile<D, D>(value + (long long)first_key * D, v_tile, n_here, KEYS);
    __syncthreads();

#pragma unroll
    for (int r = 0; r < ROWS_PER_WARP; r++) {
      const int row = warp * ROWS_PER_WARP + r;
      float score = 0;
#pragma unroll 8
      for (int d = 0; d < D; d++) score += q_tile[row * D + d] * k_tile[lane * (D + 1) + d];
      const bool visible = lane < n_here && (!causal || first_key + lane <= first_query + row);
      score = visible ? score * scale : -INFINITY;

      const float new_largest = fmaxf(largest[r], warp_max(score));
      const float correction = expf(largest[r] - new_largest);
      const float weight = expf(score - new_largest);
      largest[r] = new_largest;
      sum[r] = sum[r] * correction + warp_sum(weight);
      for (int c = 0; c < D / 32; c++) weighted[r][c] *= correction;
#pragma unroll 8
      for (int j = 0; j < KEYS; j++) {
        const float weight_j = __shfl_sync(ALL_LANES, weight, j);
        for (int c = 0; c < D / 32; c++) weighted[r][c] += weight_j * v_tile[j * D + c * 32 + lane];
      }
    }
  }

#pragma unroll
  for (int r = 0; r < ROWS_PER_WARP; r++) {
    const int row = warp * ROWS_PER_WARP + r;
    if (first_query + row >= n_queries) continue;
    for (int c = 0; c < D / 32; c++) out[(long long)row * D + c * 32 + lane] = T(weighted[r][c] / sum[r]);
  }
}

extern "C" __global__ void attention_float16_32(
    const __half* q, const __half* k, const __half* v, __half* out, int n_queries, int n_keys, float scale, int causal) {
  attention<32>(q, k, v, out, n_queries, n_keys, scale, causal);
}
extern "C" __global__ void attention_float16_64(
    const __half* q, const __half* k, const __half* v, __half* out, int n_queries, int n_keys, float scale, int causal) {
  attention<64>(q, k, v, out, n_queries, n_keys, scale, causal);
}
extern "C" __global__ void attention_float16_128(
    const __half* q, const __half* k, const __half* v, __half* out, int n_queries, int n_keys, float scale, int causal) {
  attention<128>(q, k, v, out, n_queries, n_keys, scale, causal);
}
extern "C" __global__ void attention_bfloat16_32(
    const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, __nv_bfloat16* out, int n_queries, int n_keys, float scale, int causal) {
  attention<32>(q, k, v, out, n_queries, n_keys, scale, causal);
}
extern "C" __global__ void attention_bfloat16_64(
    const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, __nv_bfloat16* out, int n_queries, int n_keys, float scale, int causal) {
  attention<64>(q, k, v, out, n_queries, n_keys, scale, causal);
}
extern "C" __global__ void attention_bfloat16_128(
    const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, __nv_bfloat16* out, int n_queries, int n_keys, float scale, int causal) {
  attention<128>(q, k, v, out, n_queries, n_keys, scale, causal);
}
extern "C" __global__ void attention_float32_32(
    const float* q, const float* k, const float* v, float* out, int n_queries, int n_keys, float scale, int causal) {
  attention<32>(q, k, v, out, n_queries, n_keys, scale, causal);
}
extern "C" __global__ void attention_float32_64(
    const float* q, const float* k, const float* v, float* out, int n_queries, int n_keys, float scale, int causal) {
  attention<64>(q, k, v, out, n_queries, n_keys, scale, causal);
}
extern "C" __global__ void attention_float32_128(
    const float* q, const float* k, const float* v, float* out, int n_queries, int n_keys, float scale, int causal) {
  attention<128>(q, k, v, out, n_queries, n_keys, scale, causal);
}
