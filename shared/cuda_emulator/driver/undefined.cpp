// Integer overflow, division by zero, casts and indices out of range: kernels are compiled with
// -fsanitize=signed-integer-overflow,bounds,integer-divide-by-zero,float-cast-overflow, which calls the __ubsan_handle_* functions.
#include <signal.h>

#include <cstdio>
#include <cstdlib>

#include "emulator.hpp"

using namespace emulator;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define RETURN_ADDRESS reinterpret_cast<uintptr_t>(__builtin_return_address(0))

// What the compiler passes to __ubsan_handle_*: a static description of the place and the type.
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};
struct TypeDescriptor {
    uint16_t kind, info;  // info: bit 0 signed, above it the logarithm of the width in bits
    char name[1];
};
struct OverflowData {
    SourceLocation place;
    const TypeDescriptor* type;
};
struct BoundsData {
    SourceLocation place;
    const TypeDescriptor *array, *index;
};

static std::string signed_text(const TypeDescriptor* type, uintptr_t value) {
    const unsigned bits = 1u << (type->info >> 1);
    if (bits > 64) return "a 128-bit value";  // passed by address
    if (!(type->info & 1)) return number(value);
    const int64_t wide = bits == 64 ? (int64_t)value : (int64_t)((uint64_t)value << (64 - bits)) >> (64 - bits);
    return std::to_string(wide);
}

// The value of an operand that has at most 64 bits; a wider one comes by address.
static __int128 value_of(const TypeDescriptor* type, uintptr_t value) {
    const unsigned bits = 1u << (type->info >> 1);
    if (bits > 64) return 0;
    return bits == 64 ? (int64_t)value : (int64_t)((uint64_t)value << (64 - bits)) >> (64 - bits);
}

// A GPU wraps, as NumPy does, and for data that is the answer. A thread that has read nothing yet has no data: what it
// computes is an index. Later only the use tells: an access where the wrapped index points, in an array that is large
// enough for the index that was meant.
static void on_overflow(const OverflowData* data, __int128 meant, const std::string& text, uintptr_t pc) {
    if (!launch.running_thread) return;
    Overflow overflow{pc, 0, 0, "integer overflow: " + text + " does not fit in " + data->type->name};
    if (!has_read[launch.current]) fail_overflowed_index(overflow);
    if (1u << (data->type->info >> 1) > 32) return;  // no array is so large
    overflow.wrapped = (int32_t)(uint32_t)meant;
    overflow.meant = (int64_t)meant;
    auto& kept = current().overflows;
    if (kept.size() == 4) kept.erase(kept.begin());
    kept.push_back(overflow);
    launch.overflowed = true;
}

// The _abort names are the same handlers under -fno-sanitize-recover.
#define OVERFLOW_HANDLER(name, sign)                                                                 \
    static void name##_overflow(const OverflowData* d, uintptr_t a, uintptr_t b, uintptr_t pc) {    \
        on_overflow(d, value_of(d->type, a) sign value_of(d->type, b),                              \
                    signed_text(d->type, a) + " " #sign " " + signed_text(d->type, b), pc);         \
    }                                                                                               \
    EXPORT void __ubsan_handle_##name##_overflow(OverflowData* d, uintptr_t a, uintptr_t b) {       \
        name##_overflow(d, a, b, RETURN_ADDRESS);                                                   \
    }                                                                                               \
    EXPORT void __ubsan_handle_##name##_overflow_abort(OverflowData* d, uintptr_t a, uintptr_t b) { \
        name##_overflow(d, a, b, RETURN_ADDRESS);                                                   \
    }
OVERFLOW_HANDLER(add, +)
OVERFLOW_HANDLER(sub, -)
OVERFLOW_HANDLER(mul, *)

static void negate_overflow(const OverflowData* data, uintptr_t a, uintptr_t pc) {
    on_overflow(data, -value_of(data->type, a), "-(" + signed_text(data->type, a) + ")", pc);
}
EXPORT void __ubsan_handle_negate_overflow(OverflowData* data, uintptr_t a) { negate_overflow(data, a, RETURN_ADDRESS); }
EXPORT void __ubsan_handle_negate_overflow_abort(OverflowData* data, uintptr_t a) { negate_overflow(data, a, RETURN_ADDRESS); }

// Host code has these hooks too; there the machine decides what happens.
static void fail_division(OverflowData* data, uintptr_t a, uintptr_t b, uintptr_t pc) {
    if (!launch.running_thread) raise(SIGFPE);
    if (b)
        fail({LAUNCH_FAILED, "integer overflow",
              "integer overflow: " + signed_text(data->type, a) + " / " + signed_text(data->type, b) + " does not fit in " +
                  data->type->name,
              "the smallest number divided by -1, which C++ leaves undefined", pc});
    fail({LAUNCH_FAILED, "division by zero", "integer division of " + signed_text(data->type, a) + " by zero",
          "on a GPU this gives some number and no error", pc});
}
EXPORT void __ubsan_handle_divrem_overflow(OverflowData* data, uintptr_t a, uintptr_t b) {
    fail_division(data, a, b, RETURN_ADDRESS);
}
EXPORT void __ubsan_handle_divrem_overflow_abort(OverflowData* data, uintptr_t a, uintptr_t b) {
    fail_division(data, a, b, RETURN_ADDRESS);
}
static void fail_index(BoundsData* data, uintptr_t index, uintptr_t pc) {
    if (!launch.running_thread) {
        fprintf(stderr, "%s:%u: host code: index %s is outside an array of type %s\n", data->place.file, data->place.line,
                signed_text(data->index, index).c_str(), data->array->name);
        abort();
    }
    fail({ILLEGAL_ADDRESS, "out of bounds",
          "index " + signed_text(data->index, index) + " is outside an array of type " + data->array->name,
          "a loop bound or a tile size that does not fit the declaration", pc});
}
EXPORT void __ubsan_handle_out_of_bounds(BoundsData* data, uintptr_t index) { fail_index(data, index, RETURN_ADDRESS); }
EXPORT void __ubsan_handle_out_of_bounds_abort(BoundsData* data, uintptr_t index) {
    fail_index(data, index, RETURN_ADDRESS);
}

struct CastData {
    SourceLocation place;
    const TypeDescriptor *from, *to;
};
EXPORT void __ubsan_handle_float_cast_overflow(CastData* data, uintptr_t) {
    if (!launch.running_thread) return;
    fail({LAUNCH_FAILED, "cast out of range", std::string("a number or NaN that does not fit in ") + data->to->name + " is cast to it",
          "a GPU gives the nearest integer that fits, and 0 for NaN, this machine another: clamp first, or cast by __float2int_rz and the like",
          RETURN_ADDRESS});
}
