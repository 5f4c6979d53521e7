// Complex numbers as CUDA's C headers have them.
#pragma once
#define EMULATOR_COMPLEX(T, Real, make, suffix, abs)                                                                       \
    EMULATOR_INLINE T make(Real x, Real y) { return {x, y}; }                                                              \
    EMULATOR_INLINE Real cuCreal##suffix(T z) { return z.x; }                                                              \
    EMULATOR_INLINE Real cuCimag##suffix(T z) { return z.y; }                                                              \
    EMULATOR_INLINE T cuConj##suffix(T z) { return {z.x, -z.y}; }                                                          \
    EMULATOR_INLINE T cuCadd##suffix(T a, T b) { return {a.x + b.x, a.y + b.y}; }                                          \
    EMULATOR_INLINE T cuCsub##suffix(T a, T b) { return {a.x - b.x, a.y - b.y}; }                                          \
    EMULATOR_INLINE T cuCmul##suffix(T a, T b) { return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x}; }                  \
    EMULATOR_INLINE T cuCdiv##suffix(T a, T b) {                                                                           \
        const Real scale = fabs(b.x) + fabs(b.y), ax = a.x / scale, ay = a.y / scale, bx = b.x / scale, by = b.y / scale; \
        const Real square = bx * bx + by * by;                                                                             \
        return {(ax * bx + ay * by) / square, (ay * bx - ax * by) / square};                                               \
    }                                                                                                                      \
    EMULATOR_INLINE Real cuCabs##suffix(T z) { return abs(z.x, z.y); }                                                     \
    EMULATOR_INLINE T cuCfma##suffix(T a, T b, T c) { return cuCadd##suffix(cuCmul##suffix(a, b), c); }

typedef float2 cuFloatComplex;
typedef double2 cuDoubleComplex;
typedef cuFloatComplex cuComplex;
EMULATOR_COMPLEX(cuFloatComplex, float, make_cuFloatComplex, f, hypotf)
EMULATOR_COMPLEX(cuDoubleComplex, double, make_cuDoubleComplex, , hypot)
EMULATOR_INLINE cuComplex make_cuComplex(float x, float y) { return {x, y}; }
EMULATOR_INLINE cuDoubleComplex cuComplexFloatToDouble(cuFloatComplex z) { return {z.x, z.y}; }
EMULATOR_INLINE cuFloatComplex cuComplexDoubleToFloat(cuDoubleComplex z) { return {(float)z.x, (float)z.y}; }
#undef EMULATOR_COMPLEX
