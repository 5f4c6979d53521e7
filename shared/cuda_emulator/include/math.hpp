// Device functions that C++ does not have. sinf, expf, fmaxf and the like come from <cmath>.
//
// The approximate versions (__expf, rsqrtf ...) are computed exactly rounded or nearly so: a kernel that passes here
// may differ on a GPU in the last bits, never the other way round.
#pragma once

// --- min and max: CUDA's are overloads, and the floating ones skip NaN as fminf and fmaxf do -----------------------
#define EMULATOR_MINMAX(T)                                  \
    static inline T min(T a, T b) { return a < b ? a : b; } \
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
#define __tanhf(x) tanhf(x)
#define __powf(x, y) powf(x, y)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
static inline double rcbrt(double x) { return 1.0 / cbrt(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float x) { return x >= 1.0f ? 1.0f : x > 0.0f ? x : 0.0f; }  // NaN gives 0

// The float versions of what follows are computed in double: they are exact but for the last rounding.
static inline void sincos(float x, float* sine, float* cosine) { sincosf(x, sine, cosine); }
static inline double sinpi(double x) {
    const double t = fmod(x, 2.0), a = fabs(t) > 1.5 ? t - copysign(2.0, t) : fabs(t) > 0.5 ? copysign(1.0, t) - t : t;
    return sin(3.14159265358979323846 * a);  // |a| <= 1/2, so that sinpi(1) is 0
}
static inline double cospi(double x) {
    const double t = fabs(fmod(x, 2.0));
    return t < 0.25 ? cos(3.14159265358979323846 * t) : sinpi(0.5 - t);
}
static inline double tanpi(double x) { return sinpi(x) / cospi(x); }
static inline void sincospi(double x, double* sine, double* cosine) { *sine = sinpi(x), *cosine = cospi(x); }
static inline float sinpif(float x) { return (float)sinpi(x); }
static inline float cospif(float x) { return (float)cospi(x); }
static inline float tanpif(float x) { return (float)tanpi(x); }
static inline void sincospif(float x, float* sine, float* cosine) { *sine = sinpif(x), *cosine = cospif(x); }

static inline double norm3d(double a, double b, double c) { return hypot(hypot(a, b), c); }
static inline double norm4d(double a, double b, double c, double d) { return hypot(hypot(a, b), hypot(c, d)); }
static inline double rhypot(double a, double b) { return 1.0 / hypot(a, b); }
static inline double rnorm3d(double a, double b, double c) { return 1.0 / norm3d(a, b, c); }
static inline double rnorm4d(double a, double b, double c, double d) { return 1.0 / norm4d(a, b, c, d); }
static inline double norm(int n, const double* x) {
    double length = 0;
    for (int i = 0; i < n; i++) length = hypot(length, x[i]);
    return length;
}
static inline float normf(int n, const float* x) {
    double length = 0;
    for (int i = 0; i < n; i++) length = hypot(length, (double)x[i]);
    return (float)length;
}
static inline double rnorm(int n, const double* x) { return 1.0 / norm(n, x); }
static inline float rnormf(int n, const float* x) { return 1.0f / normf(n, x); }
static inline float rhypotf(float a, float b) { return (float)rhypot(a, b); }
static inline float norm3df(float a, float b, float c) { return (float)norm3d(a, b, c); }
static inline float norm4df(float a, float b, float c, float d) { return (float)norm4d(a, b, c, d); }
static inline float rnorm3df(float a, float b, float c) { return (float)rnorm3d(a, b, c); }
static inline float rnorm4df(float a, float b, float c, float d) { return (float)rnorm4d(a, b, c, d); }

static inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
static inline double erfcinv(double x);
static inline double erfinv(double x) {
    if (!(fabs(x) <= 0.5)) return x < 0 ? -erfcinv(1.0 + x) : erfcinv(1.0 - x);  // these differences are exact
    double y = 0.88622692545275801365 * x;  // sqrt(pi) / 2
    for (int step = 0; step < 4; step++) {
        const double error = (erf(y) - x) * 0.88622692545275801365 * exp(y * y);
        y -= error / (1.0 + y * error);
    }
    return y;
}
// The inverse of erfc on (0, 2): a start from erfc(y) ~ exp(-y^2) / (y sqrt(pi)), then Halley's steps.
static inline double erfcinv(double x) {
    if (x >= 0.5 && x <= 1.5) return erfinv(1.0 - x);
    if (!(x > 0.0 && x < 2.0)) return x == 0.0 ? INFINITY : x == 2.0 ? -INFINITY : NAN;
    const double tail = x < 1.0 ? x : 2.0 - x, t = sqrt(-2.0 * log(0.5 * tail));
    double y = 0.70710678118654752440 * (t - (2.30753 + 0.27061 * t) / (1.0 + t * (0.99229 + 0.04481 * t)));
    for (int step = 0; step < 3; step++) {
        const double slope = 1.12837916709551257390 * exp(-y * y);  // -d erfc / dy
        if (!(slope > 0.0)) break;  // below 1e-307 the start has to do
        const double error = (erfc(y) - tail) / slope;
        y += error / (1.0 - y * error);
    }
    return x < 1.0 ? y : -y;
}
static inline double normcdfinv(double x) { return -1.41421356237309504880 * erfcinv(2.0 * x); }
// exp(x^2) erfc(x); where erfc is too small, by its asymptotic series.
static inline double erfcx(double x) {
    if (x < 20.0) return exp(x * x) * erfc(x);
    const double s = 0.5 / (x * x);
    return 0.56418958354775628695 / x * (1 - s * (1 - 3 * s * (1 - 5 * s * (1 - 7 * s * (1 - 9 * s)))));
}
static inline float normcdff(float x) { return (float)normcdf(x); }
static inline float normcdfinvf(float x) { return (float)normcdfinv(x); }
static inline float erfinvf(float x) { return (float)erfinv(x); }
static inline float erfcinvf(float x) { return (float)erfcinv(x); }
static inline float erfcxf(float x) { return (float)erfcx(x); }

// --- one operation with a given rounding: _rn to nearest, _rz to zero, _rd down, _ru up -----------------------------
// The rounded result and the sign of what it lacks say which neighbour is meant.
static inline float emulator_direct(float rounded, double missing, bool down, bool up) {
    if (missing < 0 && down) return nextafterf(rounded, -INFINITY);
    if (missing > 0 && up) return nextafterf(rounded, INFINITY);
    return rounded;
}
static inline float emulator_toward(float rounded, double missing, char mode) {
    return emulator_direct(rounded, missing, mode == 'd' || (mode == 'z' && rounded > 0),
                           mode == 'u' || (mode == 'z' && rounded < 0));
}
static inline float emulator_round(double exact, char mode) {  // exact: a double that holds the result without loss
    const float rounded = (float)exact;
    return emulator_toward(rounded, isinf(exact) ? 0.0 : exact - (double)rounded, mode);
}
static inline float emulator_sum(double a, double b, char mode) {  // of doubles whose sum a double may not hold
    const double sum = a + b, part = sum - a, lost = (a - (sum - part)) + (b - part);
    const float rounded = (float)sum;
    if (isinf(sum) || sum != sum) return rounded;
    if (sum == 0.0 && mode == 'd' && (signbit(a) || signbit(b))) return -0.0f;
    return emulator_toward(rounded, sum != (double)rounded ? sum - (double)rounded : lost, mode);
}
static inline float emulator_quotient(double a, double b, char mode) {
    const float rounded = (float)(a / b);
    const double missing = fma(-(double)rounded, b, a);
    if (isinf(rounded) && b != 0.0 && !isinf(a)) return emulator_toward(rounded, -rounded, mode);
    return emulator_toward(rounded, b < 0 ? -missing : missing, mode);
}
static inline float emulator_root(double x, char mode) {
    const float rounded = (float)sqrt(x);
    return emulator_toward(rounded, fma(-(double)rounded, (double)rounded, x), mode);
}
#define EMULATOR_ROUNDED(suffix, mode)                                                                              \
    static inline float __fadd_##suffix(float a, float b) { return emulator_sum(a, b, mode); }                      \
    static inline float __fsub_##suffix(float a, float b) { return emulator_sum(a, -(double)b, mode); }             \
    static inline float __fmul_##suffix(float a, float b) { return emulator_round((double)a * b, mode); }           \
    static inline float __fmaf_##suffix(float a, float b, float c) { return emulator_sum((double)a * b, c, mode); } \
    static inline float __fdiv_##suffix(float a, float b) { return emulator_quotient(a, b, mode); }                 \
    static inline float __frcp_##suffix(float x) { return emulator_quotient(1.0, x, mode); }                        \
    static inline float __fsqrt_##suffix(float x) { return emulator_root(x, mode); }                                \
    static inline float __int2float_##suffix(int x) { return emulator_round(x, mode); }                             \
    static inline float __uint2float_##suffix(unsigned x) { return emulator_round(x, mode); }                       \
    static inline float __double2float_##suffix(double x) { return emulator_round(x, mode); }
EMULATOR_ROUNDED(rz, 'z')
EMULATOR_ROUNDED(rd, 'd')
EMULATOR_ROUNDED(ru, 'u')
#undef EMULATOR_ROUNDED
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __drcp_rn(double x) { return 1.0 / x; }
static inline double __dsqrt_rn(double x) { return sqrt(x); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// --- conversions -----------------------------------------------------------------------------------------------------
// Out of range saturates and NaN becomes 0, as the GPU's convert instruction does.
template <class Integer, class Real>
static inline Integer emulator_to_integer(Real x) {
    if (x != x) return 0;
    const Real low = (Real)std::numeric_limits<Integer>::min(), high = (Real)std::numeric_limits<Integer>::max();
    if (x <= low) return std::numeric_limits<Integer>::min();
    return x >= high ? std::numeric_limits<Integer>::max() : (Integer)x;
}
#define EMULATOR_TO_INTEGER(Integer, from_float, from_double)                                               \
    static inline Integer from_float##_rn(float x) { return emulator_to_integer<Integer>(nearbyintf(x)); }  \
    static inline Integer from_float##_rz(float x) { return emulator_to_integer<Integer>(truncf(x)); }      \
    static inline Integer from_float##_rd(float x) { return emulator_to_integer<Integer>(floorf(x)); }      \
    static inline Integer from_float##_ru(float x) { return emulator_to_integer<Integer>(ceilf(x)); }       \
    static inline Integer from_double##_rn(double x) { return emulator_to_integer<Integer>(nearbyint(x)); } \
    static inline Integer from_double##_rz(double x) { return emulator_to_integer<Integer>(trunc(x)); }     \
    static inline Integer from_double##_rd(double x) { return emulator_to_integer<Integer>(floor(x)); }     \
    static inline Integer from_double##_ru(double x) { return emulator_to_integer<Integer>(ceil(x)); }
EMULATOR_TO_INTEGER(int, __float2int, __double2int)
EMULATOR_TO_INTEGER(unsigned, __float2uint, __double2uint)
EMULATOR_TO_INTEGER(long long, __float2ll, __double2ll)
EMULATOR_TO_INTEGER(unsigned long long, __float2ull, __double2ull)
#undef EMULATOR_TO_INTEGER
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }
static inline double __int2double_rn(int x) { return x; }
static inline double __uint2double_rn(unsigned x) { return x; }
static inline double __ll2double_rn(long long x) { return (double)x; }
static inline double __ull2double_rn(unsigned long long x) { return (double)x; }

#define EMULATOR_REINTERPRET(name, From, To)                    \
    static inline To name(From value) {                         \
        To result;                                              \
        static_assert(sizeof(From) == sizeof(To), "same size"); \
        memcpy(&result, &value, sizeof value);                  \
        return result;                                          \
    }
EMULATOR_REINTERPRET(__float_as_int, float, int)
EMULATOR_REINTERPRET(__int_as_float, int, float)
EMULATOR_REINTERPRET(__float_as_uint, float, unsigned)
EMULATOR_REINTERPRET(__uint_as_float, unsigned, float)
EMULATOR_REINTERPRET(__double_as_longlong, double, long long)
EMULATOR_REINTERPRET(__longlong_as_double, long long, double)
#undef EMULATOR_REINTERPRET
static inline int __double2hiint(double x) { return (int)(__double_as_longlong(x) >> 32); }
static inline int __double2loint(double x) { return (int)__double_as_longlong(x); }
static inline double __hiloint2double(int high, int low) {
    return __longlong_as_double((long long)((unsigned long long)(unsigned)high << 32 | (unsigned)low));
}

// --- integers --------------------------------------------------------------------------------------------------------
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
// The low 24 bits of each factor, and the low 32 of the product.
static inline int __mul24(int a, int b) {
    return (int)((unsigned)((int)((unsigned)a << 8) >> 8) * (unsigned)((int)((unsigned)b << 8) >> 8));
}
static inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int bit = 0; bit < 32; bit++) y |= (x >> bit & 1u) << (31 - bit);
    return y;
}
static inline unsigned long long __brevll(unsigned long long x) {
    return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
    return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
static inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
    return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}
// Four bytes of the eight in (y, x), each chosen by a digit of the selector; its bit 3 spreads the byte's sign instead.
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned digit = selector >> (4 * i) & 15u, byte = (unsigned)(bytes >> (8 * (digit & 7u))) & 255u;
        result |= (digit & 8u ? (byte & 128u ? 255u : 0u) : byte) << (8 * i);
    }
    return result;
}
static inline unsigned __usad(unsigned a, unsigned b, unsigned c) { return (a > b ? a - b : b - a) + c; }
static inline unsigned __sad(int a, int b, unsigned c) {
    return (a > b ? (unsigned)a - (unsigned)b : (unsigned)b - (unsigned)a) + c;
}
static inline int __hadd(int a, int b) { return (int)(((long long)a + b) >> 1); }
static inline int __rhadd(int a, int b) { return (int)(((long long)a + b + 1) >> 1); }
static inline unsigned __uhadd(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a + b) >> 1); }
static inline unsigned __urhadd(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a + b + 1) >> 1); }
static inline unsigned umin(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned umax(unsigned a, unsigned b) { return a > b ? a : b; }
static inline long long llmin(long long a, long long b) { return a < b ? a : b; }
static inline long long llmax(long long a, long long b) { return a > b ? a : b; }
static inline unsigned long long ullmin(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
static inline unsigned long long ullmax(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

// --- loads and stores with a cache hint: the emulator has no caches -------------------------------------------------
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

#include "lanes.hpp"
