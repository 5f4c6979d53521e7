// What a compiled kernel file and the emulated driver know of each other. Included by both sides.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr unsigned EMULATOR_ABI = 5;

// One __global__ function. `call` unpacks the launch's array of argument pointers: a template makes it from the
// function's own type, so that no signature is ever parsed.
struct emulator_kernel {
    void (*function)();
    void (*call)(void (*function)(), void** arguments);
    const size_t* layout;  // number of parameters, their sizes, their offsets, bytes altogether
    int line;
    unsigned max_threads;  // from __launch_bounds__, or 1024
    const emulator_kernel* next;
};

// Every object that the emulator's nvcc makes exports one of these as `emulator_module_info`.
struct emulator_module {
    unsigned abi;
    unsigned checked;  // compiled with the access hooks
    const emulator_kernel* const* kernels;  // the first of a list
    // The names of its __shared__, __device__ and __managed__ variables, each between two spaces.
    const char *shared, *device, *managed;
};

enum emulator_barrier { BARRIER_PLAIN, BARRIER_COUNT, BARRIER_AND, BARRIER_OR };
enum emulator_collective_op {
    WARP_SYNC, WARP_SHUFFLE, WARP_SHUFFLE_BY, WARP_BALLOT, WARP_MATCH, WARP_ADD, WARP_MIN, WARP_MAX
};

// The driver's side of what a kernel can ask for; the kernel object finds these in libcuda.so.1.
extern "C" {
int emulator_syncthreads(int line, int kind, int predicate);
uint64_t emulator_collective(int op, unsigned mask, uint64_t value, int source_lane, int line);
unsigned emulator_lane();
unsigned emulator_active_mask(int line);
void* emulator_dynamic_shared();
uint64_t emulator_atomic_load(const void* address, unsigned size);  // checks and counts; the store only stores
void emulator_atomic_store(void* address, unsigned size, uint64_t value);
void emulator_atomic_expect(uint64_t value);  // what the atomicCAS that comes compares with
[[noreturn]] void emulator_device_assert(const char* text, const char* file, int line);
[[noreturn]] void emulator_trap();
// Of whole programs (launch.hpp): kernel<<<grid, block, shared, stream>>>(arguments).
int emulator_register_program(const emulator_module* info);
void emulator_launch_kernel(const emulator_kernel* kernel, const char* name, const unsigned* grid_and_block, size_t shared,
                            void* stream, void** arguments);
}
