// Integer overflow, division by zero and indices out of range: kernels are compiled with
// -fsanitize=signed-integer-overflow,bounds,integer-divide-by-zero, which calls the __ubsan_handle_* functions.
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

static void fail_overflow(const OverflowData* data, const char* sign, uintptr_t a, uintptr_t b, uintptr_t pc) {
    if (!launch.running_thread) return;
    fail({LAUNCH_FAILED, "integer overflow",
          "integer overflow: " + signed_text(data->type, a) + " " + sign + " " + signed_text(data->type, b) +
              " does not fit in " + data->type->name,
          "index arithmetic in 32 bits: make one operand size_t or long long before the multiplication", pc});
}

// The _abort names are the same handlers under -fno-sanitize-recover.
#define OVERFLOW_HANDLER(name, sign)                                                                \
    EXPORT void __ubsan_handle_##name##_overflow(OverflowData* d, uintptr_t a, uintptr_t b) {       \
        fail_overflow(d, sign, a, b, RETURN_ADDRESS);                                               \
    }                                                                                               \
    EXPORT void __ubsan_handle_##name##_overflow_abort(OverflowData* d, uintptr_t a, uintptr_t b) { \
        fail_overflow(d, sign, a, b, RETURN_ADDRESS);                                               \
    }
OVERFLOW_HANDLER(add, "+")
OVERFLOW_HANDLER(sub, "-")
OVERFLOW_HANDLER(mul, "*")

EXPORT void __ubsan_handle_negate_overflow(OverflowData* data, uintptr_t a) {
    fail_overflow(data, "negated, 0 -", 0, a, RETURN_ADDRESS);
}
static void fail_division(OverflowData* data, uintptr_t a, uintptr_t b, uintptr_t pc) {
    if (b) fail_overflow(data, "/", a, b, pc);
    fail({LAUNCH_FAILED, "division by zero", "integer division of " + signed_text(data->type, a) + " by zero",
          "on a GPU this gives some number and no error", pc});
}
EXPORT void __ubsan_handle_divrem_overflow(OverflowData* data, uintptr_t a, uintptr_t b) {
    fail_division(data, a, b, RETURN_ADDRESS);
}
EXPORT void __ubsan_handle_negate_overflow_abort(OverflowData* data, uintptr_t a) {
    fail_overflow(data, "negated, 0 -", 0, a, RETURN_ADDRESS);
}
EXPORT void __ubsan_handle_divrem_overflow_abort(OverflowData* data, uintptr_t a, uintptr_t b) {
    fail_division(data, a, b, RETURN_ADDRESS);
}
static void fail_index(BoundsData* data, uintptr_t index, uintptr_t pc) {
    fail({ILLEGAL_ADDRESS, "out of bounds",
          "index " + signed_text(data->index, index) + " is outside an array of type " + data->array->name,
          "a loop bound or a tile size that does not fit the declaration", pc});
}
EXPORT void __ubsan_handle_out_of_bounds(BoundsData* data, uintptr_t index) { fail_index(data, index, RETURN_ADDRESS); }
EXPORT void __ubsan_handle_out_of_bounds_abort(BoundsData* data, uintptr_t index) {
    fail_index(data, index, RETURN_ADDRESS);
}
