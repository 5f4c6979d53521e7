// float16: 1 sign, 5 exponent and 10 mantissa bits. The emulator's own, so that no toolkit is needed.
#pragma once
#include "small_float.hpp"

// Rounds to nearest, ties to even; overflow gives infinity.
static inline unsigned short emulator_float_to_half(float x) {
    const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;           // NaN, the GPU's
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
    if (magnitude < 0x38800000u) {                        // below 2^-14: subnormal, a multiple of 2^-24
        const float scaled = __uint_as_float(magnitude) * 16777216.0f;
        return sign | (unsigned)nearbyintf(scaled);
    }
    const unsigned rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return sign | ((rounded - 0x38000000u) >> 13);
}
static inline float emulator_half_to_float(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, mantissa = bits & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)mantissa * 5.9604644775390625e-8f;  // 2^-24
    return __uint_as_float(sign | (exponent + 112u) << 23 | mantissa << 13);
}

EMULATOR_SMALL_FLOAT(__half, __half2, half, emulator_float_to_half, emulator_half_to_float)
using half = __half;
using half2 = __half2;

#define CUDART_ZERO_FP16 __ushort_as_half((unsigned short)0x0000)
#define CUDART_ONE_FP16 __ushort_as_half((unsigned short)0x3c00)
#define CUDART_INF_FP16 __ushort_as_half((unsigned short)0x7c00)
#define CUDART_NAN_FP16 __ushort_as_half((unsigned short)0x7fff)
#define CUDART_MAX_NORMAL_FP16 __ushort_as_half((unsigned short)0x7bff)
