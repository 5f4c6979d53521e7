// Intrinsics that take a 32-bit word for two numbers of 16 bits or four of 8: __vadd2, __dp4a and their relatives.
#pragma once

// f of each pair of lanes; T is a lane's type. What f returns is cut to the lane.
template <class T, class F>
static inline unsigned emulator_lanes(unsigned a, unsigned b, F f) {
    constexpr int bits = 8 * sizeof(T);
    unsigned result = 0;
    for (int shift = 0; shift < 32; shift += bits)
        result |= ((unsigned)f((int)(T)(a >> shift), (int)(T)(b >> shift)) & ((1u << bits) - 1u)) << shift;
    return result;
}
template <class T>
static inline int emulator_clamp(int x) {
    const int low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
    return x < low ? low : x > high ? high : x;
}
template <class T>
static inline unsigned emulator_sum_of_lanes(unsigned lanes) {
    unsigned sum = 0;
    for (int shift = 0; shift < 32; shift += 8 * sizeof(T)) sum += (T)(lanes >> shift);
    return sum;
}

#define EMULATOR_LANES(name, T, expression)                                                 \
    static inline unsigned name(unsigned x, unsigned y) {                                   \
        return emulator_lanes<T>(x, y, [](int a, int b) { return (void)b, (expression); }); \
    }
// A comparison gives all ones (__vcmp) or 1 (__vset).
#define EMULATOR_COMPARE(name, n, T, expression)      \
    EMULATOR_LANES(__vcmp##name##n, T, -(expression)) \
    EMULATOR_LANES(__vset##name##n, T, +(expression))
#define EMULATOR_ALL_LANES(n, S, U)                                                           \
    EMULATOR_LANES(__vadd##n, U, a + b)                                                       \
    EMULATOR_LANES(__vsub##n, U, a - b)                                                       \
    EMULATOR_LANES(__vaddss##n, S, emulator_clamp<S>(a + b))                                  \
    EMULATOR_LANES(__vaddus##n, U, emulator_clamp<U>(a + b))                                  \
    EMULATOR_LANES(__vsubss##n, S, emulator_clamp<S>(a - b))                                  \
    EMULATOR_LANES(__vsubus##n, U, emulator_clamp<U>(a - b))                                  \
    EMULATOR_LANES(__vmaxs##n, S, a > b ? a : b)                                              \
    EMULATOR_LANES(__vmaxu##n, U, a > b ? a : b)                                              \
    EMULATOR_LANES(__vmins##n, S, a < b ? a : b)                                              \
    EMULATOR_LANES(__vminu##n, U, a < b ? a : b)                                              \
    EMULATOR_LANES(__vavgs##n, S, (a + b + (a + b >= 0)) >> 1)                                \
    EMULATOR_LANES(__vavgu##n, U, (a + b + 1) >> 1)                                           \
    EMULATOR_LANES(__vhaddu##n, U, (a + b) >> 1)                                              \
    EMULATOR_LANES(__vabsdiffs##n, S, a > b ? a - b : b - a)                                  \
    EMULATOR_LANES(__vabsdiffu##n, U, a > b ? a - b : b - a)                                  \
    EMULATOR_COMPARE(eq, n, U, a == b)                                                        \
    EMULATOR_COMPARE(ne, n, U, a != b)                                                        \
    EMULATOR_COMPARE(ges, n, S, a >= b)                                                       \
    EMULATOR_COMPARE(geu, n, U, a >= b)                                                       \
    EMULATOR_COMPARE(gts, n, S, a > b)                                                        \
    EMULATOR_COMPARE(gtu, n, U, a > b)                                                        \
    EMULATOR_COMPARE(les, n, S, a <= b)                                                       \
    EMULATOR_COMPARE(leu, n, U, a <= b)                                                       \
    EMULATOR_COMPARE(lts, n, S, a < b)                                                        \
    EMULATOR_COMPARE(ltu, n, U, a < b)                                                        \
    static inline unsigned __vabs##n(unsigned x) {                                            \
        return emulator_lanes<S>(x, 0, [](int a, int) { return abs(a); });                    \
    }                                                                                         \
    static inline unsigned __vabsss##n(unsigned x) {                                          \
        return emulator_lanes<S>(x, 0, [](int a, int) { return emulator_clamp<S>(abs(a)); }); \
    }                                                                                         \
    static inline unsigned __vneg##n(unsigned x) {                                            \
        return emulator_lanes<S>(x, 0, [](int a, int) { return -a; });                        \
    }                                                                                         \
    static inline unsigned __vnegss##n(unsigned x) {                                          \
        return emulator_lanes<S>(x, 0, [](int a, int) { return emulator_clamp<S>(-a); });     \
    }                                                                                         \
    static inline unsigned __vsads##n(unsigned x, unsigned y) {                               \
        return emulator_sum_of_lanes<U>(__vabsdiffs##n(x, y));                                \
    }                                                                                         \
    static inline unsigned __vsadu##n(unsigned x, unsigned y) {                               \
        return emulator_sum_of_lanes<U>(__vabsdiffu##n(x, y));                                \
    }
EMULATOR_ALL_LANES(2, int16_t, uint16_t)
EMULATOR_ALL_LANES(4, int8_t, uint8_t)
#undef EMULATOR_ALL_LANES
#undef EMULATOR_COMPARE
#undef EMULATOR_LANES

// Dot products: of four bytes, and of two halves with the low or the high two bytes. The sum wraps.
#define EMULATOR_DOT(T, Byte, Half)                                                                              \
    static inline T __dp4a(T a, T b, T c) {                                                                      \
        unsigned sum = (unsigned)c;                                                                              \
        for (int shift = 0; shift < 32; shift += 8)                                                              \
            sum += (unsigned)((int)(Byte)((unsigned)a >> shift) * (int)(Byte)((unsigned)b >> shift));            \
        return (T)sum;                                                                                           \
    }                                                                                                            \
    static inline T emulator_dp2a(T a, T b, T c, int first) {                                                    \
        unsigned sum = (unsigned)c;                                                                              \
        for (int i = 0; i < 2; i++)                                                                              \
            sum += (unsigned)((int)(Half)((unsigned)a >> 16 * i) * (int)(Byte)((unsigned)b >> 8 * (first + i))); \
        return (T)sum;                                                                                           \
    }                                                                                                            \
    static inline T __dp2a_lo(T a, T b, T c) { return emulator_dp2a(a, b, c, 0); }                               \
    static inline T __dp2a_hi(T a, T b, T c) { return emulator_dp2a(a, b, c, 2); }
EMULATOR_DOT(int, int8_t, int16_t)
EMULATOR_DOT(unsigned, uint8_t, uint16_t)
#undef EMULATOR_DOT
