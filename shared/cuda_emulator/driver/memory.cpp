// The checks of every load and store of a kernel.
//
// A checked kernel is compiled with -fsanitize=thread but not linked with its library: the compiler then calls
// __tsan_read4(address) and the like before each access, and those functions are here.
#include <cstring>

#include "emulator.hpp"

namespace emulator {

// --- shared memory: one cell of history per granule ------------------------------------------------------------------

// Two accesses race when they touch one cell, at least one writes, they are by different threads, and nothing orders
// them: no __syncthreads between (the epoch is the same) and, in one warp, no __syncwarp (the clocks).
// Two readers are kept, of two threads: whoever writes next races with at least one of them.
struct Past {
    uint32_t epoch, clock;  // the epoch counts barriers and blocks and is never reset: old entries need no clearing
    uint32_t pc;            // relative to the module
    int thread;
};
struct Cell {
    Past write, atomic, read[2];
    uint32_t earlier_write;  // the epoch of the write before the last: was this cell used before in the block?
};

static uint32_t epoch = 1, block_epoch = 1;
// seen[t][l]: up to which of its own clock thread t has seen lane l of its warp. Only __syncwarp moves it: a shuffle
// orders no memory.
static uint32_t seen[MAX_THREADS][WARP];
static std::vector<Cell> static_cells, dynamic_cells;
bool has_read[MAX_THREADS];
static bool checked;  // the running module has hooks, so the cells are in use
static struct {  // a store to what another thread has just stored
    bool waits = false;
    uintptr_t address;
    unsigned size;
    char before[16];
    Finding finding;
} second_write;

void begin_memory_checks() {
    Module& module = *launch.module;
    checked = module.info->checked;
    if (!checked) return;
    static_cells.resize(std::max(static_cells.size(), (module.shared_high - module.shared_low) / module.granule + 1));
    dynamic_cells.resize(std::max(dynamic_cells.size(), launch.dynamic_bytes / module.granule + 1));
    epoch++;  // nothing of another launch is of this one
    second_write.waits = false;
}

void begin_block_memory() {
    for (const Variable& variable : launch.module->shared)  // NaN, -1: what was never written shows in the result
        memset(reinterpret_cast<void*>(variable.low), 0xFF, variable.high - variable.low);
    memset(launch.dynamic_shared, 0xFF, launch.dynamic_bytes);
    if (settings.counting) flush_requests();
    block_epoch = ++epoch;
    if (!checked) return;
    for (unsigned t = 0; t < launch.threads.size(); t++) {
        memset(seen[t], 0, sizeof seen[t]);
        seen[t][t % WARP] = 1;
    }
}

void barrier_passed() {
    epoch++;
    if (settings.counting) flush_requests();
}

void warp_synced(unsigned first_thread, unsigned mask) {
    if (!checked) return;
    uint32_t joined[WARP] = {};
    const unsigned lanes = std::min<unsigned>(WARP, launch.threads.size() - first_thread);
    for (unsigned l = 0; l < lanes; l++)
        if (mask >> l & 1)
            for (unsigned k = 0; k < WARP; k++) joined[k] = std::max(joined[k], seen[first_thread + l][k]);
    for (unsigned l = 0; l < lanes; l++)
        if (mask >> l & 1) {
            memcpy(seen[first_thread + l], joined, sizeof joined);
            seen[first_thread + l][l]++;
        }
}

static bool ordered(const Past& past) {
    const unsigned me = launch.current, other = past.thread;
    if (past.epoch != epoch || other == me) return true;
    return other / WARP == me / WARP && seen[me][other % WARP] >= past.clock;
}

// "element [3][1] of tile" would need types; the byte offset says enough to find it.
static std::string shared_name(uintptr_t address) {
    const auto low = reinterpret_cast<uintptr_t>(launch.dynamic_shared);
    if (address - low < launch.dynamic_bytes) return "dynamic shared memory, byte " + number(address - low);
    for (const Variable& v : launch.module->shared)
        if (address >= v.low && address < v.high) return v.name + ", byte " + number(address - v.low);
    return "shared memory";
}

static Finding race(const char* now, const char* before, const Past& past, bool rewritten, uintptr_t address, uintptr_t pc) {
    Finding finding{LAUNCH_FAILED, "race",
                    std::string("shared memory race: ") + now + " of " + shared_name(address) +
                        " is not ordered after a " + before + " by " + thread_name(past.thread),
                    "", pc, std::string("that ") + before + " is at", launch.module->base + past.pc};
    finding.likely = rewritten ? "a missing barrier before shared memory is written again: without it a fast warp "
                                 "overwrites what a slow one still reads (the second __syncthreads() of a loop)"
                               : "a missing __syncthreads() between the write and its use by other threads";
    if (past.thread / WARP == launch.current / WARP) finding.likely += "; inside one warp __syncwarp() is enough";
    return finding;
}

// Threads that write one and the same value (found = true) race without harm. What a store writes is seen when it is done: before the
// thread does anything else that the emulator sees.
static void write_again(uintptr_t address, unsigned size, Finding finding) {
    if (second_write.waits) return;  // another word of the same store
    if (size > sizeof second_write.before) fail(finding);
    second_write.waits = true, second_write.address = address, second_write.size = size, second_write.finding = finding;
    memcpy(second_write.before, reinterpret_cast<void*>(address), size);
}

void finish_second_write() {
    if (!second_write.waits) return;
    second_write.waits = false;
    if (!launch.failed && memcmp(second_write.before, reinterpret_cast<void*>(second_write.address), second_write.size))
        note(second_write.finding, launch.current);
}

// Keeps two readers, of two warps where there are two: no barrier orders those.
static void remember_read(Cell& cell, const Past& now) {
    for (Past& past : cell.read)
        if (past.epoch != epoch || past.thread == now.thread) {
            past = now;
            return;
        }
    if (cell.read[0].thread / (int)WARP == cell.read[1].thread / (int)WARP) cell.read[1] = now;
}

static void check_cell(Cell& cell, uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    const int me = launch.current;
    const bool writes = access != Access::load, atomic = access == Access::atomic;
    const char* verb = atomic ? "atomic access" : writes ? "write" : "read";
    const bool unwritten = cell.write.epoch < block_epoch && cell.atomic.epoch < block_epoch;
    if (unwritten && access != Access::store)
        suspect({LAUNCH_FAILED, "uninitialised shared memory",
                 "use of uninitialised shared memory: " + shared_name(address) + " was not written before in this block",
                 "an element that no thread fills before the next barrier (edge tiles need zeros), or a reduction that "
                 "reads more partial results than there are warps", pc});
    const bool rewritten = cell.earlier_write >= block_epoch && cell.earlier_write < epoch;
    if (!atomic && !ordered(cell.atomic)) fail(race(verb, "atomic access", cell.atomic, rewritten, address, pc));
    if (writes)
        for (const Past& past : cell.read)
            if (!ordered(past)) fail(race(verb, "read", past, !unwritten, address, pc));
    if (!ordered(cell.write)) {
        const Finding finding = race(verb, "write", cell.write, rewritten, address, pc);
        if (access != Access::store) fail(finding);
        write_again(address, size, finding);
    }
    const Past now{epoch, seen[me][me % WARP], uint32_t(pc - launch.module->base), me};
    if (!writes) {
        remember_read(cell, now);
        return;
    }
    if (cell.write.epoch != epoch) cell.earlier_write = cell.write.epoch;
    (atomic ? cell.atomic : cell.write) = now;
}

// --- every load and store --------------------------------------------------------------------------------------------

static bool usable(const Variable& v) {  // by the kernel that runs
    return !v.kernel || v.kernel == reinterpret_cast<uintptr_t>(launch.function->kernel->function);
}

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

static void check_shared(Cell* cells, uintptr_t offset, uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    const unsigned granule = launch.module->granule;
    for (uintptr_t i = offset / granule; i <= (offset + size - 1) / granule; i++)
        check_cell(cells[i], address, size, access, pc);
}

void check_timeout(uintptr_t pc) {
    static uint32_t accesses;
    if ((++accesses & 0xFFFFF) == 0 && now_s() > launch.deadline)
        fail({LAUNCH_TIMEOUT, "timeout", "the launch runs for more than " + number((uint64_t)settings.timeout_s) + " s",
              "a loop that does not end, or that waits for another thread without a barrier; or a launch too large for "
              "the emulator (cuda_emulator.settings(timeout_s=...))", pc});
}

static bool in_shared_variable(uintptr_t address, unsigned size) {
    for (const Variable& v : launch.module->shared)
        if (address >= v.low && address + size <= v.high) return usable(v);
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

static inline void on_access(uintptr_t address, unsigned size, Access access, bool aligned, uintptr_t pc) {
    if (!launch.running_thread) return on_host_access(address, size, access, pc);
    if (second_write.waits) {
        finish_second_write();
        if (launch.failed) wait_as(State::done);
    }
    if (address - launch.stacks_low < launch.stacks_bytes) return;  // a local variable
    check_timeout(pc);
    const Module& module = *launch.module;
    const auto dynamic = reinterpret_cast<uintptr_t>(launch.dynamic_shared);
    const bool power_of_two = (size & (size - 1)) == 0 && size <= 16;
    const bool misaligned = aligned && power_of_two && (address & (size - 1));
    bool shared = true;
    if (address - dynamic < launch.dynamic_bytes && address + size <= dynamic + launch.dynamic_bytes) {
        if (access != Access::store) has_read[launch.current] = true;
        if (misaligned) fail_alignment(address, size, access, pc);
        check_shared(dynamic_cells.data(), address - dynamic, address, size, access, pc);
    } else if (address - module.shared_low < module.shared_high - module.shared_low &&
               in_shared_variable(address, size)) {
        if (access != Access::store) has_read[launch.current] = true;
        if (misaligned) fail_alignment(address, size, access, pc);
        check_shared(static_cells.data(), address - module.shared_low, address, size, access, pc);
    } else if (address - module.image_low < module.image_high - module.image_low) {
        for (const Variable& v : module.globals)  // __constant__ and __device__ variables
            if (address >= v.low && address + size <= v.high) {
                if (!v.device) fail_host_variable(v, access, pc);
                if (access != Access::store) has_read[launch.current] = true;
                return;
            }
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
        bool known = false;
        for (Range& range : recent)
            if (address - range.low < range.bytes && address + size - range.low <= range.bytes) {
                known = true;
                if (&range != recent) std::swap(range, recent[0]);
                break;
            }
        if (!known) {
            if (is_builtin_variable(address) || (access == Access::load && is_argument(address, size))) return;
            if (address - (dynamic - SHARED_MARGIN) < MAX_SHARED + 2 * SHARED_MARGIN)
                fail_shared_range(address, size, access, pc);
            const auto* entry = find_allocation(address);
            if (!entry || address + size > entry->first + entry->second.bytes) fail_address(address, size, access, pc);
            for (int i = 3; i > 0; i--) recent[i] = recent[i - 1];
            recent[0] = {entry->first, entry->second.bytes};
        }
        if (access != Access::store) has_read[launch.current] = true;
        if (launch.overflowed)
            if (const Overflow* overflow = overflow_behind(recent[0].low, recent[0].bytes, address, size))
                fail_overflowed_index(*overflow);
        if (misaligned) fail_alignment(address, size, access, pc);
    }
    if (settings.counting) count_access(pc, address, size, access, shared);
}

}  // namespace emulator

// --- the compiler's entry points -------------------------------------------------------------------------------------

using namespace emulator;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define RETURN_ADDRESS reinterpret_cast<uintptr_t>(__builtin_return_address(0))

#define HOOKS(size)                                                                                                  \
    EXPORT void __tsan_read##size(uintptr_t p) { on_access(p, size, Access::load, true, RETURN_ADDRESS); }          \
    EXPORT void __tsan_write##size(uintptr_t p) { on_access(p, size, Access::store, true, RETURN_ADDRESS); }        \
    EXPORT void __tsan_unaligned_read##size(uintptr_t p) { on_access(p, size, Access::load, false, RETURN_ADDRESS); } \
    EXPORT void __tsan_unaligned_write##size(uintptr_t p) { on_access(p, size, Access::store, false, RETURN_ADDRESS); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
EXPORT void __tsan_read_range(uintptr_t p, size_t n) { if (n) on_access(p, n, Access::load, false, RETURN_ADDRESS); }
EXPORT void __tsan_write_range(uintptr_t p, size_t n) { if (n) on_access(p, n, Access::store, false, RETURN_ADDRESS); }
EXPORT void __tsan_init() {}
EXPORT void __tsan_func_entry(void*) {}
EXPORT void __tsan_func_exit() {}
EXPORT void __tsan_vptr_update(void**, void*) {}
EXPORT void __tsan_vptr_read(void**) {}
EXPORT void* __tsan_memcpy(void* to, const void* from, size_t n) {
    if (n) on_access((uintptr_t)from, n, Access::load, false, RETURN_ADDRESS);
    if (n) on_access((uintptr_t)to, n, Access::store, false, RETURN_ADDRESS);
    return memcpy(to, from, n);
}
EXPORT void* __tsan_memset(void* to, int value, size_t n) {
    if (n) on_access((uintptr_t)to, n, Access::store, false, RETURN_ADDRESS);
    return memset(to, value, n);
}

EXPORT uint64_t emulator_atomic_load(const void* address, unsigned size) {
    if (checked) on_access((uintptr_t)address, size, Access::atomic, true, RETURN_ADDRESS);
    uint64_t value = 0;
    memcpy(&value, address, size);
    return value;
}
EXPORT void emulator_atomic_store(void* address, unsigned size, uint64_t value) { memcpy(address, &value, size); }
