// The checks of every load and store of a kernel.
//
// A checked kernel is compiled with -fsanitize=thread but not linked with its library: the compiler then calls
// __tsan_read4(address) and the like before each access, and those functions are here.
#include <cstring>

#include "emulator.hpp"

namespace emulator {

bool has_read[MAX_THREADS];

// The variables that the kernel may use: another kernel's are out of its bounds.
struct Span {
    uintptr_t low, high;
};
static std::vector<Span> shared_spans;

static bool usable(const Variable& v) {
    return !v.kernel || v.kernel == reinterpret_cast<uintptr_t>(launch.function->kernel->function);
}

void begin_memory_checks() {
    if (!launch.checked) return;
    shared_spans.clear();
    for (const Variable& v : launch.module->shared)
        if (usable(v)) shared_spans.push_back({v.low, v.high});
    begin_races();
}

void begin_block_memory() {
    for (const Variable& variable : launch.module->shared)  // NaN, -1: what was never written shows in the result
        memset(reinterpret_cast<void*>(variable.low), 0xFF, variable.high - variable.low);
    memset(launch.dynamic_shared, 0xFF, launch.dynamic_bytes);
    if (settings.counting) flush_requests();
    if (launch.checked) begin_block_races();
}

void barrier_passed() {
    if (launch.checked) barrier_of_races();
    if (settings.counting) flush_requests();
}

// --- every load and store --------------------------------------------------------------------------------------------

// "4 bytes past the end of tile, which has 128 bytes": the variable that was probably meant.
static std::string beside_a_variable(uintptr_t address) {
    const Variable* nearest = nullptr;
    uintptr_t distance = ~uintptr_t(0);
    for (const auto* variables : {&launch.module->shared, &launch.module->globals})
        for (const Variable& v : *variables) {
            const uintptr_t d = address >= v.high ? address - v.high : v.low > address ? v.low - address : 0;
            if (usable(v) && d < distance) distance = d, nearest = &v;
        }
    if (!nearest) return "no variable is there";
    return number(distance) + (address < nearest->low ? " bytes before the start of " : " bytes past the end of ") +
           nearest->name + ", which has " + number(nearest->high - nearest->low) + " bytes";
}

[[noreturn]] static void fail_shared_range(uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    const auto low = reinterpret_cast<uintptr_t>(launch.dynamic_shared);
    std::string what = std::string("out-of-bounds shared ") + verb(access) + " of " + number(size) + " bytes: ";
    std::string likely = "an index past the tile, or a pad that the declaration lacks";
    if (address - (low - SHARED_MARGIN) < MAX_SHARED + 2 * SHARED_MARGIN) {
        what += address < low ? number(low - address) + " bytes before the start of dynamic shared memory"
                              : "byte " + number(address - low) + " of dynamic shared memory, of which the launch asked for " +
                                    number(launch.dynamic_bytes) + " bytes";
        likely = "the launch's shared= is too small for what the kernel uses (bytes, not elements)";
    } else {
        what += beside_a_variable(address);
    }
    fail({ILLEGAL_ADDRESS, "out of bounds", what, likely, pc});
}

[[noreturn]] static void fail_alignment(uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    const std::string pair = size == 16 && address % 16 == 8 ? "; a struct of two 8-byte numbers, which a GPU reads one by one, "
                                                               "looks the same here: read its members" : "";
    fail({MISALIGNED_ADDRESS, "misaligned",
          "misaligned " + std::string(verb(access)) + " of " + number(size) + " bytes at an address that is " +
              number(address % size) + " more than a multiple of " + number(size),
          "a vector load (float4, float2) needs an aligned address: handle an offset view's head and the tail with single "
          "elements, or fall back to them when a pointer or row length does not fit" + pair, pc});
}

void check_timeout(uintptr_t pc) {
    static uint32_t accesses;
    if ((++accesses & 0xFFFFF) == 0 && now_s() > launch.deadline)
        fail({LAUNCH_TIMEOUT, "timeout", "the launch runs for more than " + number((uint64_t)settings.timeout_s) + " s",
              "a loop that does not end, or that waits for another thread without a barrier; or a launch too large for "
              "the emulator (cuda_emulator.settings(timeout_s=...))", pc});
}

static bool in_shared_variable(uintptr_t address, unsigned size) {
    for (const Span& span : shared_spans)
        if (address >= span.low && address + size <= span.high) return true;
    return false;
}

// clang, unlike gcc, has hooks for reads of constants in other objects too.
static bool is_builtin_variable(uintptr_t address) {
    for (const Index* variable : {&threadIdx, &blockIdx, &blockDim, &gridDim})
        if (address - reinterpret_cast<uintptr_t>(variable) < sizeof(Index)) return true;
    return false;
}

// A type with a copy constructor is copied from the launch's arguments by the kernel's own code.
static bool is_argument(uintptr_t address, unsigned size) {
    const auto low = reinterpret_cast<uintptr_t>(launch.argument_bytes.data());
    const size_t bytes = launch.argument_bytes.size() * sizeof(Argument);
    return address - low < bytes && address + size <= low + bytes;
}

[[noreturn]] static void fail_host_variable(const Variable& variable, Access access, uintptr_t pc) {
    fail({ILLEGAL_ADDRESS, "host variable", std::string(verb(access)) + " of " + variable.name + ", a variable of the host's",
          "nvcc does not compile this: pass the value as an argument, or declare the variable __device__ or __constant__", pc});
}

// How an access was written in the source: vector loads must be aligned, and volatile ones have rules of their own.
enum class Form { unaligned, aligned, volatile_ };

static void check_any_shared(bool dynamic, uintptr_t offset, uintptr_t address, unsigned size, Access access, Form form,
                             uintptr_t pc) {
    if (form == Form::volatile_) check_volatile_shared(dynamic, offset, address, size, access, pc, current().step);
    else check_shared(dynamic, offset, address, size, access, pc);
}

// The array that an access of global memory hits; null where the access is none of the kernel's.
static Range* find_range(uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    const auto dynamic = reinterpret_cast<uintptr_t>(launch.dynamic_shared);
    if (is_builtin_variable(address) || (access == Access::load && is_argument(address, size))) return nullptr;
    if (address - (dynamic - SHARED_MARGIN) < MAX_SHARED + 2 * SHARED_MARGIN) fail_shared_range(address, size, access, pc);
    const auto* entry = find_allocation(address);
    if (!entry || address + size > entry->first + entry->second.bytes) fail_address(address, size, access, pc);
    for (int i = 3; i > 0; i--) recent[i] = recent[i - 1];
    recent[0] = {entry->first, entry->second.bytes, entry->second.shadow, entry->second.shadow->written};
    return recent;
}

// The host's own code, a constructor, or hooks for the lockstep only.
static void on_unwatched_access(uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    if (!launch.running_thread) on_host_access(address, size, access, pc);
}

static inline void on_access(uintptr_t address, unsigned size, Access access, Form form, uintptr_t pc) {
    if (!launch.watched) return on_unwatched_access(address, size, access, pc);
    if (same_value_waits) {
        finish_same_value();
        if (launch.failed) wait_as(State::done);
    }
    if (address - launch.stacks_low < launch.stacks_bytes) return;  // a local variable
    check_timeout(pc);
    const Module& module = *launch.module;
    const auto dynamic = reinterpret_cast<uintptr_t>(launch.dynamic_shared);
    const bool power_of_two = (size & (size - 1)) == 0 && size <= 16;
    const bool misaligned = form != Form::unaligned && power_of_two && (address & (size - 1));
    const bool relaxed = form == Form::volatile_;
    const bool device = address - DEVICE_LOW < DEVICE_SPAN;  // surely global memory, which is the usual case
    bool shared = true;
    if (!device && address - dynamic < launch.dynamic_bytes && address + size <= dynamic + launch.dynamic_bytes) {
        if (access != Access::store) has_read[launch.current] = true;
        if (misaligned) fail_alignment(address, size, access, pc);
        check_any_shared(true, address - dynamic, address, size, access, form, pc);
    } else if (!device && address - module.shared_low < module.shared_high - module.shared_low &&
               in_shared_variable(address, size)) {
        if (access != Access::store) has_read[launch.current] = true;
        if (misaligned) fail_alignment(address, size, access, pc);
        check_any_shared(false, address - module.shared_low, address, size, access, form, pc);
    } else if (!device && address - module.image_low < module.image_high - module.image_low) {
        for (const Variable& v : module.device_variables)  // __constant__ and __device__ variables
            if (address >= v.low && address + size <= v.high) {
                if (access != Access::store) has_read[launch.current] = true;
                if (v.name.compare(0, 5, "guard")) check_device_variable(address, size, access, relaxed, pc);
                return;
            }
        for (const Variable& v : module.globals)
            if (!v.device && address >= v.low && address + size <= v.high) fail_host_variable(v, access, pc);
        if (address - module.shared_low < module.shared_high - module.shared_low)
            fail_shared_range(address, size, access, pc);
        if (address - module.data_low < module.data_high - module.data_low)
            fail({ILLEGAL_ADDRESS, "out of bounds",
                  std::string("out-of-bounds ") + verb(access) + " of " + number(size) + " bytes: " +
                      beside_a_variable(address),
                  "an index that does not fit the array's declaration", pc});
        return;  // a literal or a constexpr table
    } else {
        shared = false;
        Range* range = nullptr;
        for (Range& known : recent)
            if (address - known.low < known.bytes && address + size - known.low <= known.bytes) {
                range = &known;
                break;
            }
        if (!range && !(range = find_range(address, size, access, pc))) return;
        if (access != Access::store) has_read[launch.current] = true;
        if (launch.overflowed)
            if (const Overflow* overflow = overflow_behind(range->low, range->bytes, address, size))
                fail_overflowed_index(*overflow);
        if (misaligned) fail_alignment(address, size, access, pc);
        if (access != Access::load || relaxed || range->written >= recorded_from)
            check_global(*range->shadow, address, size, access, relaxed, pc);
        if (access == Access::load) last_load = address;
    }
    if (settings.counting) count_access(pc, address, size, access, shared);
}

// A volatile access of shared memory: the lanes of a warp wait for each other before it, as if they ran in lockstep. So
// they read what the step before has written: PyCUDA's reductions rely on that, without a __syncwarp().
static void on_volatile_access(uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    if (!launch.running_thread) return on_host_access(address, size, access, pc);
    if (address - launch.stacks_low < launch.stacks_bytes) return;  // a local variable
    const Module& module = *launch.module;
    if (address - reinterpret_cast<uintptr_t>(launch.dynamic_shared) < launch.dynamic_bytes ||
        address - module.shared_low < module.shared_high - module.shared_low) {
        check_timeout(pc);
        current().pc = pc;
        current().line = 0;
        wait_as(State::converging);
    }
    on_access(address, size, access, Form::volatile_, pc);
}

}  // namespace emulator

// --- the compiler's entry points -------------------------------------------------------------------------------------

using namespace emulator;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define RETURN_ADDRESS reinterpret_cast<uintptr_t>(__builtin_return_address(0))

#define HOOKS(size)                                                                                                        \
    EXPORT void __tsan_read##size(uintptr_t p) { on_access(p, size, Access::load, Form::aligned, RETURN_ADDRESS); }       \
    EXPORT void __tsan_write##size(uintptr_t p) { on_access(p, size, Access::store, Form::aligned, RETURN_ADDRESS); }     \
    EXPORT void __tsan_unaligned_read##size(uintptr_t p) {                                                                \
        on_access(p, size, Access::load, Form::unaligned, RETURN_ADDRESS);                                                \
    }                                                                                                                     \
    EXPORT void __tsan_unaligned_write##size(uintptr_t p) {                                                               \
        on_access(p, size, Access::store, Form::unaligned, RETURN_ADDRESS);                                               \
    }                                                                                                                     \
    EXPORT void __tsan_volatile_read##size(uintptr_t p) { on_volatile_access(p, size, Access::load, RETURN_ADDRESS); }    \
    EXPORT void __tsan_volatile_write##size(uintptr_t p) { on_volatile_access(p, size, Access::store, RETURN_ADDRESS); }  \
    EXPORT void __tsan_unaligned_volatile_read##size(uintptr_t p) {                                                       \
        on_volatile_access(p, size, Access::load, RETURN_ADDRESS);                                                        \
    }                                                                                                                     \
    EXPORT void __tsan_unaligned_volatile_write##size(uintptr_t p) {                                                      \
        on_volatile_access(p, size, Access::store, RETURN_ADDRESS);                                                       \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
EXPORT void __tsan_read_range(uintptr_t p, size_t n) { if (n) on_access(p, n, Access::load, Form::unaligned, RETURN_ADDRESS); }
EXPORT void __tsan_write_range(uintptr_t p, size_t n) { if (n) on_access(p, n, Access::store, Form::unaligned, RETURN_ADDRESS); }
EXPORT void __tsan_init() {}
EXPORT void __tsan_func_entry(void*) {}
EXPORT void __tsan_func_exit() {}
EXPORT void __tsan_vptr_update(void**, void*) {}
EXPORT void __tsan_vptr_read(void**) {}
EXPORT void* __tsan_memcpy(void* to, const void* from, size_t n) {
    if (n) on_access((uintptr_t)from, n, Access::load, Form::unaligned, RETURN_ADDRESS);
    if (n) on_access((uintptr_t)to, n, Access::store, Form::unaligned, RETURN_ADDRESS);
    return memcpy(to, from, n);
}
EXPORT void* __tsan_memset(void* to, int value, size_t n) {
    if (n) on_access((uintptr_t)to, n, Access::store, Form::unaligned, RETURN_ADDRESS);
    return memset(to, value, n);
}

EXPORT void emulator_atomic_expect(uint64_t value) { expect_for_cas(true, value); }
EXPORT uint64_t emulator_atomic_load(const void* address, unsigned size) {
    on_access((uintptr_t)address, size, Access::atomic, Form::aligned, RETURN_ADDRESS);
    expect_for_cas(false, 0);
    uint64_t value = 0;
    memcpy(&value, address, size);
    return value;
}
EXPORT void emulator_atomic_store(void* address, unsigned size, uint64_t value) { memcpy(address, &value, size); }
