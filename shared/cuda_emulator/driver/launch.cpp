// Runs a grid on one OS thread. Blocks run one after another; the threads of a block are fibers, and each runs alone
// until it reaches a barrier, a warp collective or its end. So a program has no timing of its own: the schedule
// decides who goes first, and a bug that needs another order shows under another schedule.
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "emulator.hpp"

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
// Saves the registers that a call preserves on the old stack and takes them from the new one.
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#endif

// The built-in variables of the kernels (include/device.hpp declares them const).
extern "C" {
__attribute__((visibility("default"))) emulator::Index threadIdx, blockIdx, blockDim, gridDim;
}

namespace emulator {

Settings settings;
Launch launch;

double now_s() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

std::string thread_name(unsigned number_) {
    Index i = launch.threads[number_].index;
    return "thread (" + number(i.x) + "," + number(i.y) + "," + number(i.z) + ")";
}

void wait_as(State state) {
    Thread& thread = current();
    if (same_value_waits) finish_same_value();
    if (guesses_wait && (state == State::at_barrier || state == State::done)) settle_guesses();
    if (state == State::done && holds_reads[launch.current]) drop_reads();
    last_load = 0;
    test_waits = false;
    thread.state = state;
    set_running(false);
    thread.fiber.leave();
    set_running(true);
}

void note(Finding& finding, unsigned thread) {
    finding.block = blockIdx;
    finding.thread = launch.threads[thread].index;
    // What follows a read of garbage is its consequence, except for the race that explains the read.
    if (!launch.failed) launch.finding = launch.suspects && finding.kind != "race" ? launch.suspicion : finding;
    launch.failed = true;
}

void suspect(Finding finding) {
    if (launch.suspects) return;
    finding.block = blockIdx;
    finding.thread = current().index;
    launch.suspicion = finding;
    launch.suspects = true;
}

// The whole block has come to a barrier or to its end, and nobody has written what was read.
bool confirm_suspicion() {
    if (!launch.suspects || launch.failed) return false;
    launch.finding = launch.suspicion;
    return launch.failed = true;
}

void fail(Finding finding) {
    note(finding, launch.current);
    wait_as(State::done);
    __builtin_unreachable();
}

// --- where a thread stops --------------------------------------------------------------------------------------------

static void thread_body() {
    emulator_kernel const& kernel = *launch.function->kernel;
    set_running(true);
    kernel.call(kernel.function, reinterpret_cast<void**>(launch.arguments.data()));
    wait_as(State::done);
    __builtin_trap();
}

// --- the schedule ----------------------------------------------------------------------------------------------------

static uint32_t random_state;
static uint32_t random_below(uint32_t n) {  // xorshift: small, and the same on every machine
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % n;
}

static void run_thread(unsigned number_) {
    launch.current = number_;
    Thread& thread = launch.threads[number_];
    threadIdx = thread.index;
    thread.fiber.enter();
    set_running(false);
}

// Runs every ready thread once, in the schedule's order; false when none was ready.
static bool run_ready(std::vector<unsigned>& order) {
    const unsigned n = launch.threads.size();
    bool progress = false;
    if (settings.schedule == Schedule::random)
        for (unsigned i = n - 1; i > 0; i--) std::swap(order[i], order[random_below(i + 1)]);
    if (settings.schedule == Schedule::warp_greedy) {
        // One warp as far as it gets, before any other has moved: what a barrier that is missing would allow.
        std::vector<unsigned> warps;
        for (unsigned i = 0; i < n; i++)
            if (launch.threads[i].state == State::ready && (warps.empty() || warps.back() != warp_of(i)))
                warps.push_back(warp_of(i));
        if (warps.empty()) return false;
        const unsigned warp = warps[random_below(warps.size())];
        for (bool moved = true; moved && !launch.failed;) {
            moved = false;
            for (unsigned i = warp; i < std::min(n, warp + WARP) && !launch.failed; i++)
                if (launch.threads[i].state == State::ready) run_thread(i), moved = true;
            if (!moved && !launch.failed) moved = finish_collectives() || converge(warp);
        }
        return true;
    }
    for (unsigned number_ : order) {
        if (launch.failed) break;
        if (launch.threads[number_].state == State::ready) run_thread(number_), progress = true;
    }
    return progress;
}

static void run_block(std::vector<unsigned>& order) {
    begin_block_memory();
    for (unsigned i = 0; i < launch.threads.size(); i++) {
        Thread& thread = launch.threads[i];
        // Staggered tops: stacks at one distance modulo 4096 would fight for the same cache lines.
        thread.fiber.prepare(reinterpret_cast<char*>(launch.stacks_low) + i * STACK_BYTES,
                             STACK_BYTES - 64 - (i % 16) * 64, thread_body);
        thread.state = State::ready;
        has_read[i] = false;
        thread.overflows.clear();
    }
    auto live = [] {
        return std::any_of(launch.threads.begin(), launch.threads.end(),
                           [](const Thread& thread) { return thread.state != State::done; });
    };
    while (!launch.failed) {
        if (run_ready(order) || launch.failed) continue;
        if (!live()) {
            confirm_suspicion();
            break;
        }
        if (!finish_collectives() && !launch.failed && !converge_warps()) release_barrier();
    }
}

// --- a launch --------------------------------------------------------------------------------------------------------

// A kernel that reads a wild address without hooks (plain mode), or overflows its stack, must not end the process.
static sigjmp_buf crash_exit;
static void on_crash(int signal_number, siginfo_t* info, void*) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    Finding finding{ILLEGAL_ADDRESS, "crash", "", ""};
    if (signal_number == SIGFPE) {
        finding.code = LAUNCH_FAILED;
        finding.what = "integer division by zero, or of the smallest number by -1";
    } else if (address - launch.stacks_low < launch.stacks_bytes) {
        finding.what = "stack overflow: this thread's local variables need more than " +
                       number(STACK_BYTES >> 10) + " KiB";
        finding.likely = "large local arrays or recursion; on a GPU they would live in slow local memory";
    } else {
        finding.what = "access to address " + number(address) + ", which is no memory at all";
        finding.likely = "a null or host pointer, or an index far out of range";
    }
    note(finding, launch.current);
    siglongjmp(crash_exit, 1);
}

struct CrashGuard {
    struct sigaction old[3];
    stack_t old_stack;
    const int signals[3] = {SIGSEGV, SIGBUS, SIGFPE};
    CrashGuard() {
        static char alternative[64 << 10];  // the fiber's own stack may be what overflowed
        stack_t stack{};
        stack.ss_sp = alternative;
        stack.ss_size = sizeof alternative;
        sigaltstack(&stack, &old_stack);
        struct sigaction action{};
        action.sa_sigaction = on_crash;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 3; i++) sigaction(signals[i], &action, &old[i]);
    }
    ~CrashGuard() {
        for (int i = 0; i < 3; i++) sigaction(signals[i], &old[i], nullptr);
        sigaltstack(&old_stack, nullptr);
    }
};

static void make_stacks(size_t n) {
    if (launch.stacks_bytes >= n * STACK_BYTES) return;
    if (launch.stacks_bytes) munmap(reinterpret_cast<void*>(launch.stacks_low), launch.stacks_bytes);
    launch.stacks_bytes = n * STACK_BYTES;
    void* memory = mmap(nullptr, launch.stacks_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    launch.stacks_low = reinterpret_cast<uintptr_t>(memory);
    for (size_t i = 0; i < n; i++)  // the lowest page of each stack catches an overflow
        mprotect(static_cast<char*>(memory) + i * STACK_BYTES, 4096, PROT_NONE);
}

// Always at one address: a kernel file may declare its extern __shared__ array outside of any function.
static char* dynamic_shared_buffer() {
    static char* const buffer = [] {
        void* memory = mmap(nullptr, MAX_SHARED + 2 * SHARED_MARGIN, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return static_cast<char*>(memory) + SHARED_MARGIN;
    }();
    return buffer;
}

static uint64_t first_block, n_blocks;
static std::vector<uint64_t> shuffled_blocks;

Index nth_block(uint64_t i) {
    if (!shuffled_blocks.empty()) i = shuffled_blocks[i];
    else if (settings.schedule == Schedule::reverse) i = n_blocks - 1 - i;
    const uint64_t block = first_block + i, row = block / gridDim.x;
    return {unsigned(block % gridDim.x), unsigned(row % gridDim.y), unsigned(row / gridDim.y)};
}

static void run_blocks(Index grid) {
    const uint64_t total = (uint64_t)grid.x * grid.y * grid.z;
    const uint64_t first = std::min(settings.first_block, total), n = std::min(settings.n_blocks, total - first);
    first_block = first, n_blocks = n;
    std::vector<unsigned> order(launch.threads.size());
    for (unsigned i = 0; i < order.size(); i++) order[i] = i;
    if (settings.schedule == Schedule::reverse) std::reverse(order.begin(), order.end());
    shuffled_blocks.clear();  // only a random order needs the list, and only a short one is shuffled
    if (settings.schedule == Schedule::random && n <= 65536) {
        for (uint64_t i = 0; i < n; i++) shuffled_blocks.push_back(i);
        for (size_t i = n; i > 1; i--) std::swap(shuffled_blocks[i - 1], shuffled_blocks[random_below(i)]);
    }
    for (uint64_t i = 0; i < n && !launch.failed; i++) {
        blockIdx = nth_block(i);
        run_block(order);
    }
}

// Into memory of ours, byte by byte: a copy constructor of the kernel's, which has hooks, reads them from there.
static void copy_arguments(const emulator_kernel& kernel, void** arguments) {
    const size_t n = kernel.layout[0];
    const size_t *sizes = kernel.layout + 1, *offsets = kernel.layout + 1 + n;
    launch.argument_bytes.assign(kernel.layout[1 + 2 * n] / sizeof(Argument) + 1, Argument{});
    launch.arguments.clear();
    for (size_t i = 0; i < n; i++) {
        char* copy = reinterpret_cast<char*>(launch.argument_bytes.data()) + offsets[i];
        memcpy(copy, arguments[i], sizes[i]);
        launch.arguments.push_back(reinterpret_cast<uint64_t>(copy));
    }
}

Code run_grid(Function& function, Index grid, Index block, size_t dynamic_shared, void** arguments) {
    static std::mutex one_launch;
    std::lock_guard<std::mutex> lock(one_launch);
    const size_t n = (size_t)block.x * block.y * block.z;
    launch.function = &function;
    launch.module = function.module;
    launch.checked = function.module->info->checked;
    launch.failed = launch.suspects = launch.overflowed = false;
    launch.deadline = now_s() + settings.timeout_s;
    launch.threads.assign(n, Thread{});
    for (unsigned i = 0; i < n; i++)
        launch.threads[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    copy_arguments(*function.kernel, arguments);
    gridDim = grid;
    blockDim = block;
    random_state = settings.seed * 2654435761u | 1;
    make_stacks(n);
    launch.dynamic_shared = dynamic_shared_buffer();
    launch.dynamic_bytes = dynamic_shared;
    begin_memory_checks();
    if (settings.counting) begin_counting();
    {
        CrashGuard guard;
        if (sigsetjmp(crash_exit, 1) == 0) run_blocks(grid);
    }
    set_running(false);
    test_waits = false;  // also after a crash
    fflush(stdout);  // what the kernel has printed comes before what the host prints next
    if (settings.counting && !launch.failed) end_counting(function.name);
    report_warnings();
    Code code = launch.failed ? report(launch.finding) : SUCCESS;
    launch.function = nullptr;
    return code;
}

}  // namespace emulator

// --- what kernels call -----------------------------------------------------------------------------------------------

using namespace emulator;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define RETURN_ADDRESS reinterpret_cast<uintptr_t>(__builtin_return_address(0))

EXPORT unsigned emulator_lane() { return launch.current % WARP; }

EXPORT void* emulator_dynamic_shared() { return dynamic_shared_buffer(); }

EXPORT void emulator_device_assert(const char* text, const char* file, int line) {
    if (!launch.running_thread) {  // an assertion of the host's
        fflush(stdout);
        fprintf(stderr, "%s:%d: assertion `%s' failed\n", file, line, text);
        abort();
    }
    fail({DEVICE_ASSERT, "assert", std::string(file) + ":" + std::to_string(line) + ": assertion `" + text + "` failed",
          "", RETURN_ADDRESS});
}

EXPORT void emulator_trap() { fail({ILLEGAL_INSTRUCTION, "trap", "__trap() was called", "", RETURN_ADDRESS}); }
