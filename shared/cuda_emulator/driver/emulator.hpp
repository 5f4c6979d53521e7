// What the parts of the emulated driver know of each other.
//
//   api*.cpp         the driver API that PyCUDA calls: handles, strict argument checks, error codes
//   module.cpp       loads an object made by the nvcc stand-in and reads its symbol table
//   launch.cpp       runs a grid: blocks, schedules, barriers
//   barriers.cpp     __syncthreads()
//   collectives.cpp  warp collectives: shuffles, votes, reductions
//   allocations.cpp  device memory
//   memory.cpp       the checks of every load and store of a kernel
//   races.cpp        the race detector
//   addresses.cpp    what a bad global access was meant to be
//   undefined.cpp    integer overflow, division by zero, indices out of range
//   counters.cpp     coalescing, bank conflicts and divergent branches per source line
//   report.cpp       what went wrong, where in the .cu file, and what is likely the mistake
//   host.cpp         the check of every load and store of a program's host code
//   runtime.cpp      the runtime API of whole programs, on top of the driver API
//   control.cpp      the emulator_* functions that the Python package calls
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "../include/abi.hpp"
#include "fiber.hpp"

namespace emulator {

// CUDA's own codes (cuda.h), of those that the emulator returns.
enum Code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    FILE_NOT_FOUND = 301,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_TIMEOUT = 702,
    DEVICE_ASSERT = 710,
    ILLEGAL_INSTRUCTION = 715,
    MISALIGNED_ADDRESS = 716,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
};

struct Index {
    unsigned x, y, z;
};

// --- report.cpp ------------------------------------------------------------------------------------------------------

// Where in the kernel: a return address inside the module. Several frames when the compiler inlined a function.
struct Frame {
    std::string file, function;
    int line;
};

// One mistake of a kernel, before it is put into words.
struct Finding {
    Code code;
    std::string kind;    // a short name, stable, for tests: "out of bounds", "race" ...
    std::string what;    // one line
    std::string likely;  // what the mistake probably is
    uintptr_t pc = 0;
    std::string other = {};  // a second place, such as the other side of a race: "the other write is at"
    uintptr_t other_pc = 0;
    Index block{}, thread{};
};

extern std::string last_detail;  // what cuGetErrorString adds to CUDA's own text
extern Code last_code;           // and the code that it belongs to
extern std::vector<std::string> reports, warnings;  // JSON, one object per finding since the last clear

Code error(Code code, const std::string& detail);  // remembers the detail and returns the code
Code report(const Finding& finding);                 // the same for a finding of a kernel
void warn(Finding finding);    // a finding that does not stop the launch; each kind and place once per launch
void report_warnings();        // of the launch that ends
struct Module;
void report_host(const Finding& finding, Module& module);  // of host code
const char* cuda_text(int code);
std::string json_string(const std::string& text);
std::string number(unsigned long long value);

// --- module.cpp ------------------------------------------------------------------------------------------------------

struct Variable {
    std::string name;  // demangled: "tile" for a shared one
    std::string function;  // whose static it is; empty for a global
    uintptr_t low, high;
    uintptr_t kernel = 0;  // address of `function` where that is a kernel: no other kernel may use the variable
    bool device = true;    // false: a variable of the host's
    bool managed = false;  // of both
};

struct Module {
    void* handle = nullptr;  // of dlopen
    int file = -1;           // the memfd it was loaded from; kept open for addr2line
    const emulator_module* info = nullptr;
    uintptr_t base = 0, image_low = 0, image_high = 0;
    uintptr_t shared_low = 0, shared_high = 0;  // the span that holds all __shared__ variables
    uintptr_t data_low = 0, data_high = 0;      // the sections of all variables
    unsigned granule = 4;                       // bytes per cell of the race detector: 4, or less if the code needs it
    std::vector<Variable> shared, device_variables, globals;  // globals: of the device, and in a program of the host too
    std::map<std::string, uintptr_t> functions;
    std::map<uintptr_t, std::vector<Frame>> frames;  // filled by locate()

    ~Module();
    Code load(const void* image);
    Code load_program(const emulator_module* info);  // the process's own file
    void locate(const std::vector<uintptr_t>& pcs);  // one addr2line for all of them
    const std::vector<Frame>& frames_of(uintptr_t pc);
};

std::string demangle(const char* name);

size_t static_shared(const Module& module, const std::string& function);  // bytes of its __shared__ variables

struct Function {
    Module* module;
    const emulator_kernel* kernel;
    std::string name;
    size_t static_shared = 0;
    size_t max_dynamic_shared = 48 << 10;
    unsigned block[3] = {1, 1, 1};  // of the deprecated cuFuncSetBlockShape
};

// --- launch.cpp ------------------------------------------------------------------------------------------------------

enum class Schedule { forward, reverse, random, warp_greedy };
enum class State { ready, at_barrier, in_collective, converging, done };

// Signed arithmetic that wrapped: its result, and what it would have been with more bits.
struct Overflow {
    uintptr_t pc = 0;
    int64_t wrapped = 0, meant = 0;
    std::string what = {};
};

struct Thread {
    Fiber fiber;
    State state;
    Index index;
    uintptr_t pc;  // where it waits
    int line;
    int barrier_kind, predicate, barrier_result;
    int op;
    unsigned mask;
    uint64_t value, result;
    int source_lane;
    uint32_t step;  // of a volatile access: the same for all lanes that do it together
    std::vector<Overflow> overflows;  // of what may be data, the last few
};

struct Settings {
    Schedule schedule = Schedule::forward;
    unsigned seed = 1;
    uint64_t first_block = 0, n_blocks = ~0ull;  // the window of blocks that a launch runs
    bool counting = false;
    double timeout_s = 60;  // of one launch; checked kernels only
    unsigned char fill = 0xFF;  // the bytes of fresh memory
};
extern Settings settings;

constexpr size_t STACK_BYTES = 256 << 10;
constexpr unsigned MAX_THREADS = 1024, WARP = 32;
constexpr size_t MAX_SHARED = 227 << 10, DEFAULT_SHARED = 48 << 10, SHARED_MARGIN = 64 << 10;

struct alignas(256) Argument {  // a unit of memory for arguments, as aligned as any type of a kernel
    char bytes[256];
};

// The launch that is running. One at a time: a kernel is called under a lock.
struct Launch {
    Function* function = nullptr;
    Module* module = nullptr;
    std::vector<Thread> threads;
    unsigned current = 0;        // thread number inside the block
    bool checked = false;         // the module has all hooks, not only those of volatile accesses
    bool running_thread = false;  // false while the scheduler works
    bool watched = false;         // a thread runs, and its module is checked
    uintptr_t stacks_low = 0, stacks_bytes = 0;
    char* dynamic_shared = nullptr;
    size_t dynamic_bytes = 0;
    std::vector<uint64_t> arguments;       // where in argument_bytes each of them is
    std::vector<Argument> argument_bytes;  // all of them, as the kernel has them
    Finding finding;
    bool failed = false;
    Finding suspicion;  // a read of shared memory that nobody has written; it waits for the write that may still come
    bool suspects = false;
    bool overflowed = false;  // some thread has an overflow
    double deadline = 0;
};
extern Launch launch;

Index nth_block(uint64_t i);  // of this launch, in the order of the schedule
Code run_grid(Function& function, Index grid, Index block, size_t dynamic_shared, void** arguments);
[[noreturn]] void fail(Finding finding);  // called by a kernel's thread: ends the launch
void suspect(Finding finding);            // the same, but the thread goes on until the block's next barrier
void check_timeout(uintptr_t pc);
double now_s();
std::string thread_name(unsigned number);  // "thread (3,1,0)"
inline void set_running(bool thread) {
    launch.running_thread = thread;
    launch.watched = thread && launch.checked;
}
inline Thread& current() { return launch.threads[launch.current]; }
inline unsigned warp_of(unsigned thread) { return thread & ~(WARP - 1); }
void wait_as(State state);                     // hands control back to the scheduler until it lets this thread go on
void note(Finding& finding, unsigned thread);  // ends the launch, unless something else has

// --- barriers.cpp ----------------------------------------------------------------------------------------------------

bool confirm_suspicion();
// Nobody is ready: either all stand at one barrier and go on, or the block hangs.
bool release_barrier();

// --- collectives.cpp -------------------------------------------------------------------------------------------------

const char* state_name(State state);
// A thread that returns may be the one that a collective was waiting for; only the scheduler can see that.
bool finish_collectives();
// Lanes that wait for the rest of their warp (__activemask) go on when no lane of it can run any more.
bool converge(unsigned warp);
bool converge_warps();

// --- allocations.cpp -------------------------------------------------------------------------------------------------

constexpr size_t PAGE = 4096;

// What the race detector knows of one array.
struct Page;
struct Shadow {
    uintptr_t low = 0;
    size_t bytes = 0;
    uint32_t written = 0;  // the last launch that has written it
    unsigned granule = 0;  // bytes per record
    Page* pages = nullptr;
    std::vector<uint32_t> used = {};  // of the pages
};

struct Allocation {
    size_t bytes;
    char* mapping;
    size_t mapping_bytes;
    const char* kind;          // device, pinned host, managed
    Shadow* shadow = nullptr;  // while it is live
};
uintptr_t allocate(size_t bytes, const char* kind);  // 0: out of memory
Code release(uintptr_t address, const char* kind);
// Checks that [address, address + bytes) lies in one live allocation.
Code check_range(const char* function, const char* what, uintptr_t address, size_t bytes);
const std::pair<const uintptr_t, Allocation>* find_allocation(uintptr_t address);
const std::pair<const uintptr_t, Allocation>* find_freed(uintptr_t address);
const std::map<uintptr_t, Allocation>& live_allocations();
void fill_zero(uintptr_t address, size_t bytes);
size_t used_bytes();
void register_host(uintptr_t address, size_t bytes);
bool unregister_host(uintptr_t address);

// The allocations that were hit last, most recent first: a kernel works on two or three arrays.
struct Range {
    uintptr_t low = 1, bytes = 0;
    Shadow* shadow = nullptr;
    uint32_t written = 0;  // the shadow's
};
extern Range recent[4];

enum class Access { load, store, atomic };

// --- memory.cpp ------------------------------------------------------------------------------------------------------

void begin_memory_checks();  // of a launch
void begin_block_memory();   // poisons shared memory
extern bool has_read[];      // of each thread, from memory or another lane: what it computes from now on may be data
void barrier_passed();       // everything before is ordered before everything after

// --- races.cpp -------------------------------------------------------------------------------------------------------

extern uintptr_t last_load;    // of global memory, by the thread that runs
// Reads are recorded of arrays whose Shadow::written is not below: those that this launch has written, and of a small launch
// all, since the write may still come.
extern uint32_t recorded_from;
extern bool same_value_waits, guesses_wait, holds_reads[], test_waits;
void begin_races();  // of a launch
void begin_block_races();
void barrier_of_races();
void warp_synced(unsigned first_thread, unsigned mask);
void warp_met(unsigned first_thread);  // in a shuffle or vote of all its lanes
void finish_same_value();  // two threads have written one word: the same value?
void expect_for_cas(bool known, uint64_t value);  // what the atomic that comes next compares with, if it does
struct Touch;
void values_leave(const Touch* store);  // what this thread has read of global memory may go to where it stores
void note_constant_test(uint64_t value);  // which the kernel compares with a constant
void drop_reads();         // or it ends, and has stored nothing since
void settle_guesses();     // a thread has read a word that others change by atomics, and comes to a barrier or its end
void check_shared(bool dynamic, uintptr_t offset, uintptr_t address, unsigned size, Access access, uintptr_t pc);
void check_volatile_shared(bool dynamic, uintptr_t offset, uintptr_t address, unsigned size, Access access, uintptr_t pc,
                           uint32_t of_step);
void check_global(Shadow& shadow, uintptr_t address, unsigned size, Access access, bool relaxed, uintptr_t pc);
void check_device_variable(uintptr_t address, unsigned size, Access access, bool relaxed, uintptr_t pc);
void forget_shadow(Shadow& shadow);  // its array is freed

// --- addresses.cpp ---------------------------------------------------------------------------------------------------

[[noreturn]] void fail_overflowed_index(const Overflow& overflow);
const Overflow* overflow_behind(uintptr_t array, size_t bytes, uintptr_t address, unsigned size);
const char* verb(Access access);
std::string element_of_argument(uintptr_t array, uintptr_t address);
[[noreturn]] void fail_address(uintptr_t address, unsigned size, Access access, uintptr_t pc);

// --- counters.cpp ----------------------------------------------------------------------------------------------------

void begin_counting();
void count_access(uintptr_t pc, uintptr_t address, unsigned size, Access access, bool shared);
void flush_requests();  // at a barrier and at the end of a block: what is pending is complete
void end_counting(const std::string& kernel);
extern std::vector<std::string> counted;  // JSON, one object per counted launch

// --- host.cpp --------------------------------------------------------------------------------------------------------

constexpr uintptr_t DEVICE_LOW = 0x400000000000, DEVICE_SPAN = 1ull << 42;  // where device memory lies, if the addresses are free
void watch_host(Module& program);
void on_host_access(uintptr_t address, unsigned size, Access access, uintptr_t pc);

// --- control.cpp -----------------------------------------------------------------------------------------------------

void settings_from_environment();

// --- api_modules.cpp -------------------------------------------------------------------------------------------------

Code launch_function(Function& function, Index grid, Index block, size_t shared, void** arguments);
Code set_max_dynamic_shared(Function& function, int bytes);

}  // namespace emulator

extern "C" emulator::Index threadIdx, blockIdx, blockDim, gridDim;  // the kernels' built-in variables
