// What __half and __nv_bfloat16 have in common: 16 bits that are computed with in float and rounded after each
// operation. For + - * / and sqrt that is the correctly rounded result, since float has more than twice the bits.
#pragma once

#define EMULATOR_SMALL_FLOAT(T, T2, from_float, to_float)                                                   \
    struct alignas(2) T {                                                                                   \
        unsigned short bits;                                                                                \
        T() = default;                                                                                      \
        T(float x) : bits(from_float(x)) {}                                                                 \
        T(double x) : bits(from_float((float)x)) {}                                                         \
        T(int x) : bits(from_float((float)x)) {}                                                            \
        T(unsigned x) : bits(from_float((float)x)) {}                                                       \
        T(long long x) : bits(from_float((float)x)) {}                                                      \
        operator float() const { return to_float(bits); }                                                   \
        T& operator+=(const T& other) { return *this = T((float)*this + (float)other); }                    \
        T& operator-=(const T& other) { return *this = T((float)*this - (float)other); }                    \
        T& operator*=(const T& other) { return *this = T((float)*this * (float)other); }                    \
        T& operator/=(const T& other) { return *this = T((float)*this / (float)other); }                    \
    };                                                                                                      \
    static inline T operator+(const T& a, const T& b) { return T((float)a + (float)b); }                    \
    static inline T operator-(const T& a, const T& b) { return T((float)a - (float)b); }                    \
    static inline T operator*(const T& a, const T& b) { return T((float)a * (float)b); }                    \
    static inline T operator/(const T& a, const T& b) { return T((float)a / (float)b); }                    \
    static inline T operator-(const T& a) { return T(-(float)a); }                                          \
    static inline bool operator==(const T& a, const T& b) { return (float)a == (float)b; }                  \
    static inline bool operator!=(const T& a, const T& b) { return (float)a != (float)b; }                  \
    static inline bool operator<(const T& a, const T& b) { return (float)a < (float)b; }                    \
    static inline bool operator>(const T& a, const T& b) { return (float)a > (float)b; }                    \
    static inline bool operator<=(const T& a, const T& b) { return (float)a <= (float)b; }                  \
    static inline bool operator>=(const T& a, const T& b) { return (float)a >= (float)b; }                  \
    static inline T __hadd(T a, T b) { return a + b; }                                                      \
    static inline T __hsub(T a, T b) { return a - b; }                                                      \
    static inline T __hmul(T a, T b) { return a * b; }                                                      \
    static inline T __hdiv(T a, T b) { return a / b; }                                                      \
    static inline T __hfma(T a, T b, T c) { return T((double)(float)a * (float)b + (float)c); }             \
    static inline T __hneg(T a) { return -a; }                                                              \
    static inline T __habs(T a) { return T(fabsf(a)); }                                                     \
    static inline T __hmax(T a, T b) { return T(fmaxf(a, b)); }                                             \
    static inline T __hmin(T a, T b) { return T(fminf(a, b)); }                                             \
    static inline bool __heq(T a, T b) { return a == b; }                                                   \
    static inline bool __hne(T a, T b) { return a != b; }                                                   \
    static inline bool __hlt(T a, T b) { return a < b; }                                                    \
    static inline bool __hgt(T a, T b) { return a > b; }                                                    \
    static inline bool __hle(T a, T b) { return a <= b; }                                                   \
    static inline bool __hge(T a, T b) { return a >= b; }                                                   \
    static inline bool __hisnan(T a) { return (float)a != (float)a; }                                       \
    static inline bool __hisinf(T a) { return fabsf(a) == INFINITY; }                                       \
    static inline T hexp(T a) { return T(expf(a)); }                                                        \
    static inline T hexp2(T a) { return T(exp2f(a)); }                                                      \
    static inline T hlog(T a) { return T(logf(a)); }                                                        \
    static inline T hlog2(T a) { return T(log2f(a)); }                                                      \
    static inline T hsqrt(T a) { return T(sqrtf(a)); }                                                      \
    static inline T hrsqrt(T a) { return T(1.0f / sqrtf(a)); }                                              \
    static inline T hrcp(T a) { return T(1.0f / (float)a); }                                                \
    struct alignas(4) T2 {                                                                                  \
        T x, y;                                                                                             \
    };                                                                                                      \
    static inline T2 operator+(const T2& a, const T2& b) { return {a.x + b.x, a.y + b.y}; }                 \
    static inline T2 operator-(const T2& a, const T2& b) { return {a.x - b.x, a.y - b.y}; }                 \
    static inline T2 operator*(const T2& a, const T2& b) { return {a.x * b.x, a.y * b.y}; }                 \
    static inline T2 operator/(const T2& a, const T2& b) { return {a.x / b.x, a.y / b.y}; }                 \
    static inline T2 __hadd2(T2 a, T2 b) { return a + b; }                                                  \
    static inline T2 __hsub2(T2 a, T2 b) { return a - b; }                                                  \
    static inline T2 __hmul2(T2 a, T2 b) { return a * b; }                                                  \
    static inline T2 __h2div(T2 a, T2 b) { return a / b; }                                                  \
    static inline T2 __hfma2(T2 a, T2 b, T2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }   \
    static inline T2 __hmax2(T2 a, T2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                   \
    static inline T2 __hmin2(T2 a, T2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                   \
    static inline T2 h2exp(T2 a) { return {hexp(a.x), hexp(a.y)}; }                                         \
    static inline float __low2float(T2 a) { return a.x; }                                                   \
    static inline float __high2float(T2 a) { return a.y; }
