// bfloat16: the upper half of a float32. The emulator's own, so that no toolkit is needed.
#pragma once
#include "small_float.hpp"

static inline unsigned short emulator_float_to_bf16(float x) {  // to nearest, ties to even
    const unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN, the GPU's
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
static inline float emulator_bf16_to_float(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }

EMULATOR_SMALL_FLOAT(__nv_bfloat16, __nv_bfloat162, bfloat16, emulator_float_to_bf16, emulator_bf16_to_float)
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

#define CUDART_ZERO_BF16 __ushort_as_bfloat16((unsigned short)0x0000)
#define CUDART_ONE_BF16 __ushort_as_bfloat16((unsigned short)0x3f80)
#define CUDART_INF_BF16 __ushort_as_bfloat16((unsigned short)0x7f80)
#define CUDART_NAN_BF16 __ushort_as_bfloat16((unsigned short)0x7fff)
#define CUDART_MAX_NORMAL_BF16 __ushort_as_bfloat16((unsigned short)0x7f7f)
