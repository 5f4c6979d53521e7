// The checks of a program's host code, which has the same hooks as its kernels: no one but the driver may touch device memory.
#include <cstdlib>

#include "emulator.hpp"

namespace emulator {

static Module* program;
void watch_host(Module& module) { program = &module; }

[[noreturn]] static void fail_host(const std::string& what, Access access, uintptr_t pc) {
    report_host({ILLEGAL_ADDRESS, "host access", std::string("host code ") + (access == Access::load ? "reads " : "writes ") + what,
                 "on a machine with a GPU this ends the program, or gives the host's own copy: cudaMemcpy (cudaMemcpyFromSymbol) moves the "
                 "content, or managed memory is for both", pc}, *program);
    _Exit(139);  // as after the segmentation fault that a real program gets
}

void on_host_access(uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    if (!program) return;
    if (address - DEVICE_LOW < DEVICE_SPAN) {
        const auto* entry = find_allocation(address);
        if (entry && entry->second.kind[0] == 'd')
            fail_host("device memory: byte " + number(address - entry->first) + " of an array of " + number(entry->second.bytes), access, pc);
        if (find_freed(address)) fail_host("memory that has been freed", access, pc);
    } else if (address - program->data_low < program->data_high - program->data_low) {
        for (const Variable& v : program->device_variables)
            if (!v.managed && address - v.low < v.high - v.low) fail_host("the device's variable " + v.name, access, pc);
    }
}

}  // namespace emulator
