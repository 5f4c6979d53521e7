// What a bad global access was meant to be: an index that overflowed, freed memory, a null or host pointer, the nearest array.
#include <cstdlib>
#include <cstring>

#include "emulator.hpp"

namespace emulator {

const char* verb(Access access) {
    return access == Access::load ? "read" : access == Access::store ? "write" : "atomic access";
}

// The argument that an allocation was passed as, for the report.
static std::string argument_of(uintptr_t low, size_t bytes) {
    const size_t* layout = launch.function->kernel->layout;
    for (size_t i = 0; i < layout[0]; i++) {
        uint64_t value;
        if (layout[1 + i] != 8) continue;
        memcpy(&value, reinterpret_cast<void*>(launch.arguments[i]), 8);
        if (value - low <= bytes) return ", argument " + number(i + 1) + " of the kernel";
    }
    return "";
}

// "byte 16 of argument 2 of the kernel": counted from where the argument points; empty where none points into the array.
std::string element_of_argument(uintptr_t array, uintptr_t address) {
    const size_t* layout = launch.function->kernel->layout;
    uint64_t nearest = 0;
    size_t argument = 0;
    for (size_t i = 0; i < layout[0]; i++) {
        uint64_t value;
        if (layout[1 + i] != 8) continue;
        memcpy(&value, reinterpret_cast<void*>(launch.arguments[i]), 8);
        if (value >= array && value <= address && value > nearest) nearest = value, argument = i + 1;
    }
    return argument ? "byte " + number(address - nearest) + " of argument " + number(argument) + " of the kernel" : "";
}

void fail_overflowed_index(const Overflow& overflow) {
    fail({LAUNCH_FAILED, "integer overflow", overflow.what,
          "index arithmetic in 32 bits: make one operand size_t or long long before it; numbers that are meant to wrap are unsigned",
          overflow.pc});
}

// The overflow of this thread that an access is due to, if any: the access is where the wrapped index points, or up to 2^24
// elements from there (a column), and the array has the element that was meant. An array of less than 2^31 elements has none.
const Overflow* overflow_behind(uintptr_t array, size_t bytes, uintptr_t address, unsigned size) {
    for (const Overflow& overflow : current().overflows) {
        const int64_t at = (int64_t)(address - array) / (int64_t)size, n = bytes / size;
        if (overflow.meant >= 0 && overflow.meant < n && std::llabs(at - overflow.wrapped) < 1 << 24) return &overflow;
    }
    return nullptr;
}

void fail_address(uintptr_t address, unsigned size, Access access, uintptr_t pc) {
    const std::string action = std::string("global ") + verb(access) + " of " + number(size) + " bytes";
    const size_t* layout = launch.function->kernel->layout;
    const uint64_t wrap = (uint64_t)size << 32;
    // An int that went past 2^31 is 2^32 too small: that many elements on lies what was meant. First, since what lies here is chance.
    for (size_t i = 0; i < layout[0]; i++) {
        uint64_t pointer = 0;
        if (layout[1 + i] == 8) memcpy(&pointer, reinterpret_cast<void*>(launch.arguments[i]), 8);
        const auto* entry = find_allocation(pointer);
        if (entry)
            if (const Overflow* overflow = overflow_behind(pointer, entry->first + entry->second.bytes - pointer, address, size))
                fail_overflowed_index(*overflow);
        const uint64_t meant = address + wrap;
        if (!entry || entry->second.bytes <= wrap / 2 || meant < pointer || meant - entry->first >= entry->second.bytes) continue;
        fail({ILLEGAL_ADDRESS, "out of bounds",
              "out-of-bounds " + action + ": 2^32 elements before element " + number((meant - pointer) / size) + " of argument " +
                  number(i + 1) + " of the kernel",
              "an index that overflowed 32 bits: compute it in size_t or long long", pc});
    }
    if (const auto* entry = find_freed(address))
        fail({ILLEGAL_ADDRESS, "use after free",
              action + " in memory that has been freed" + argument_of(entry->first, entry->second.bytes),
              "either the array was freed before the launch (keep a reference to it), or the address is wrong: "
              "an index that wraps, or a size of another type", pc});
    // x[i - 1] with an unsigned i of 0 is 2^32 elements past x, nearer to anything else than to x.
    for (size_t i = 0; i < layout[0]; i++) {
        uint64_t pointer = 0;
        if (layout[1 + i] == 8) memcpy(&pointer, reinterpret_cast<void*>(launch.arguments[i]), 8);
        const uint64_t distance = address - pointer;
        if (!find_allocation(pointer) || distance >= wrap || wrap - distance > (16 << 20)) continue;
        fail({ILLEGAL_ADDRESS, "out of bounds",
              "out-of-bounds " + action + ": 2^32 - " + number((wrap - distance) / size) +
                  " elements after argument " + number(i + 1) + " of the kernel",
              "an unsigned index that went below 0 and wrapped, such as i - 1 with i == 0", pc});
    }
    // A null pointer and an index: nothing of a process lies so low, unless the host's own memory does.
    for (size_t i = 0; i < layout[0]; i++) {
        uint64_t pointer = 1;
        if (layout[1 + i] == 8) memcpy(&pointer, reinterpret_cast<void*>(launch.arguments[i]), 8);
        if (pointer || address < PAGE || address >= wrap) continue;
        fail({ILLEGAL_ADDRESS, "out of bounds",
              action + " at address " + number(address) + ": element " + number(address / size) + " of a null pointer, if argument " +
                  number(i + 1) + " of the kernel is meant",
              "an empty array has pointer 0: do not launch for size 0; or a host pointer passed where the device's was "
              "meant (in Python, a NumPy array)", pc});
    }
    // The nearest array is most probably the one that was meant.
    const std::pair<const uintptr_t, Allocation>* nearest = nullptr;
    uint64_t distance = ~0ull;
    for (const auto& entry : live_allocations()) {
        const uintptr_t end = entry.first + entry.second.bytes;
        const uint64_t d = address >= end ? address - end : entry.first > address ? entry.first - address : 0;
        if (d < distance) distance = d, nearest = &entry;
    }
    if (!nearest || distance > (16ull << 30) || address < PAGE)
        fail({ILLEGAL_ADDRESS, "out of bounds", action + " at " + (address < PAGE ? "a null pointer" : "no device memory"),
              address < PAGE ? "an empty array has pointer 0: do not launch for size 0"
                             : "a host pointer passed where the device's was meant (in Python, a NumPy array)", pc});
    const uintptr_t low = nearest->first, bytes = nearest->second.bytes;
    const bool behind = address >= low;
    const uint64_t gap = behind ? address + size - low - bytes : low - address;
    std::string what = "out-of-bounds " + action + ": " + number(behind ? address - low - std::min<uint64_t>(bytes, address - low) : gap) +
                       (behind ? " bytes past the end" : " bytes before the start") + " of an array of " +
                       number(bytes) + " bytes" + argument_of(low, bytes);
    std::string likely = !behind ? (gap >= (1ull << 30) ? "an index that overflowed 32 bits: compute it in size_t or long long"
                                                        : "a negative index")
                         : gap <= 64 << 10 ? "no guard for the tail: the last block has more threads than elements left "
                                             "(if (i < n)), a row or column is not checked, or rows have another length"
                                           : "a wrong stride, rows and columns swapped, or a missing bounds check";
    fail({ILLEGAL_ADDRESS, "out of bounds", what, likely, pc});
}

}  // namespace emulator
