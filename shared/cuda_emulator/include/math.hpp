// Device functions that C++ does not have. sinf, expf, fmaxf and the like come from <cmath>.
//
// The approximate versions (__expf, rsqrtf ...) are computed exactly rounded or nearly so: a kernel that passes here
// may differ on a GPU in the last bits, never the other way round.
#pragma once

// --- min and max: CUDA's are overloads, and the floating ones skip NaN as fminf and fmaxf do -----------------------
#define EMULATOR_MINMAX(T)                                       \
    static inline T min(T a, T b) { return a < b ? a : b; }      \
    static inline T max(T a, T b) { return a > b ? a : b; }
EMULATOR_MINMAX(int)
EMULATOR_MINMAX(unsigned)
EMULATOR_MINMAX(long)
EMULATOR_MINMAX(unsigned long)
EMULATOR_MINMAX(long long)
EMULATOR_MINMAX(unsigned long long)
#undef EMULATOR_MINMAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(a, b); }
static inline double max(float a, double b) { return fmax(a, b); }
static inline double min(double a, float b) { return fmin(a, b); }
static inline double max(double a, float b) { return fmax(a, b); }
static inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
static inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
static inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
static inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }

// --- fast and correctly rounded variants: macros, since the C library declares some of these names itself ----------
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __powf(x, y) powf(x, y)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752440f); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline void sincos(float x, float* sine, float* cosine) { sincosf(x, sine, cosine); }
static inline float sinpif(float x) { return (float)sin(3.14159265358979323846 * fmod(x, 2.0)); }
static inline float cospif(float x) { return (float)cos(3.14159265358979323846 * fmod(x, 2.0)); }
static inline float __saturatef(float x) { return x >= 1.0f ? 1.0f : x > 0.0f ? x : 0.0f; }  // NaN gives 0

// --- conversions -----------------------------------------------------------------------------------------------------
// Out of range saturates and NaN becomes 0, as the GPU's convert instruction does.
template <class Integer, class Real>
static inline Integer emulator_to_integer(Real x) {
    if (x != x) return 0;
    const Real low = (Real)std::numeric_limits<Integer>::min(), high = (Real)std::numeric_limits<Integer>::max();
    return x <= low ? std::numeric_limits<Integer>::min() : x >= high ? std::numeric_limits<Integer>::max() : (Integer)x;
}
static inline int __float2int_rn(float x) { return emulator_to_integer<int>(nearbyintf(x)); }
static inline int __float2int_rz(float x) { return emulator_to_integer<int>(truncf(x)); }
static inline int __float2int_rd(float x) { return emulator_to_integer<int>(floorf(x)); }
static inline int __float2int_ru(float x) { return emulator_to_integer<int>(ceilf(x)); }
static inline unsigned __float2uint_rn(float x) { return emulator_to_integer<unsigned>(nearbyintf(x)); }
static inline unsigned __float2uint_rz(float x) { return emulator_to_integer<unsigned>(truncf(x)); }
static inline int __double2int_rn(double x) { return emulator_to_integer<int>(nearbyint(x)); }
static inline int __double2int_rz(double x) { return emulator_to_integer<int>(trunc(x)); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }

#define EMULATOR_REINTERPRET(name, From, To)     \
    static inline To name(From value) {          \
        To result;                               \
        static_assert(sizeof(From) == sizeof(To), "same size"); \
        memcpy(&result, &value, sizeof value);   \
        return result;                           \
    }
EMULATOR_REINTERPRET(__float_as_int, float, int)
EMULATOR_REINTERPRET(__int_as_float, int, float)
EMULATOR_REINTERPRET(__float_as_uint, float, unsigned)
EMULATOR_REINTERPRET(__uint_as_float, unsigned, float)
EMULATOR_REINTERPRET(__double_as_longlong, double, long long)
EMULATOR_REINTERPRET(__longlong_as_double, long long, double)
#undef EMULATOR_REINTERPRET

// --- integers --------------------------------------------------------------------------------------------------------
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __mul24(int a, int b) { return (int)((unsigned)(a << 8 >> 8) * (unsigned)(b << 8 >> 8)); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int bit = 0; bit < 32; bit++) y |= (x >> bit & 1u) << (31 - bit);
    return y;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}

// --- loads and stores with a cache hint: the emulator has no caches ---------------------------------------------------
#define EMULATOR_LOAD(name) \
    template <class T> static inline __attribute__((always_inline)) T name(const T* p) { return *p; }
#define EMULATOR_STORE(name) \
    template <class T> static inline __attribute__((always_inline)) void name(T* p, T value) { *p = value; }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwt)
#undef EMULATOR_LOAD
#undef EMULATOR_STORE

static inline void __nanosleep(unsigned) {}
