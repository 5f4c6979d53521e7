// float4 and its relatives, with CUDA's alignment: a 16-byte vector at an address that 16 does not divide is an error.
// make_float4 is no constexpr, as in CUDA: g++ would take a store of a constant vector apart.
#pragma once

#define EMULATOR_VECTORS(T, N)                                                                     \
    struct N##1 { T x; };                                                                          \
    struct alignas(2 * sizeof(T)) N##2 { T x, y; };                                                \
    struct N##3 { T x, y, z; };                                                                    \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) N##4 { T x, y, z, w; };                \
    static inline N##1 make_##N##1(T x) { return {x}; }                                  \
    static inline N##2 make_##N##2(T x, T y) { return {x, y}; }                          \
    static inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }                  \
    static inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATOR_VECTORS(signed char, char)
EMULATOR_VECTORS(unsigned char, uchar)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(long long, longlong)
EMULATOR_VECTORS(unsigned long long, ulonglong)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
// uint3 is the type of threadIdx and stands in device.hpp.
struct uint1 { unsigned x; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline uint1 make_uint1(unsigned x) { return {x}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
#undef EMULATOR_VECTORS
