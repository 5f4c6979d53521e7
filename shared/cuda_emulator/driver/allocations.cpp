// Device memory: what is allocated, what has been freed, and the checks of the driver's copies.
#include <sys/mman.h>

#include <cstring>
#include <deque>

#include "emulator.hpp"

namespace emulator {

constexpr size_t DEVICE_BYTES = 80ull << 30;
constexpr size_t POISONED_UP_TO = 64 << 20;  // larger arrays stay untouched, so that a virtual one costs no memory
constexpr size_t QUARANTINE = 1024;          // freed allocations that are remembered, to name a use after free

static std::map<uintptr_t, Allocation> live, freed;
static std::deque<uintptr_t> freed_order;
static size_t used;

Range recent[4];
static void forget_recent() {
    for (Range& range : recent) range = {};
}

size_t used_bytes() { return used; }

uintptr_t allocate(size_t bytes, const char* kind) {
    if (bytes > DEVICE_BYTES - used) return 0;
    // A margin of a page on both sides. The start is a multiple of 256 like cudaMalloc's, but not of the page.
    const size_t shift = 256 * (live.size() % 8 + 1);
    const size_t mapping_bytes = (shift + bytes + PAGE - 1) / PAGE * PAGE + 2 * PAGE;
    static uintptr_t next = DEVICE_LOW;  // a wish: the kernel maps it elsewhere if something is there
    void* mapping = mmap(reinterpret_cast<void*>(next), mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                         -1, 0);
    if (mapping == MAP_FAILED) return 0;
    next += mapping_bytes;
    if (next >= DEVICE_LOW + DEVICE_SPAN / 2) next = DEVICE_LOW;
    uintptr_t address = reinterpret_cast<uintptr_t>(mapping) + PAGE + shift;
    if (bytes <= POISONED_UP_TO) memset(reinterpret_cast<void*>(address), settings.fill, bytes);  // NaN, -1
    live[address] = {bytes, static_cast<char*>(mapping), mapping_bytes, kind, new Shadow{address, bytes}};
    used += bytes;
    forget_recent();
    return address;
}

static const std::pair<const uintptr_t, Allocation>* find_in(const std::map<uintptr_t, Allocation>& map,
                                                             uintptr_t address) {
    auto after = map.upper_bound(address);
    if (after == map.begin()) return nullptr;
    const auto& entry = *std::prev(after);
    return address - entry.first < entry.second.bytes ? &entry : nullptr;
}

const std::pair<const uintptr_t, Allocation>* find_allocation(uintptr_t address) { return find_in(live, address); }
const std::pair<const uintptr_t, Allocation>* find_freed(uintptr_t address) { return find_in(freed, address); }
const std::map<uintptr_t, Allocation>& live_allocations() { return live; }

Code release(uintptr_t address, const char* kind) {
    auto found = live.find(address);
    if (found == live.end()) {
        if (freed.count(address)) return error(INVALID_VALUE, "this memory has been freed before");
        if (find_allocation(address))
            return error(INVALID_VALUE, "this pointer is inside an allocation, not at its start");
        return error(INVALID_VALUE, "this pointer was not allocated by the driver");
    }
    if (strcmp(found->second.kind, kind) && strcmp(found->second.kind, "managed"))
        return error(INVALID_VALUE, std::string("this is ") + found->second.kind + " memory: wrong function to free it");
    const Allocation allocation = found->second;
    live.erase(found);
    forget_shadow(*allocation.shadow);
    delete allocation.shadow;
    forget_recent();
    used -= allocation.bytes;
    if (allocation.mapping) {
        // The addresses stay reserved, without memory behind them, so that no new array takes their place.
        mmap(allocation.mapping, allocation.mapping_bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        freed[address] = allocation;
        freed_order.push_back(address);
    }
    if (freed_order.size() > QUARANTINE) {
        const Allocation& oldest = freed[freed_order.front()];
        munmap(oldest.mapping, oldest.mapping_bytes);
        freed.erase(freed_order.front());
        freed_order.pop_front();
    }
    return SUCCESS;
}

void register_host(uintptr_t address, size_t bytes) {
    live[address] = {bytes, nullptr, 0, "registered host", new Shadow{address, bytes}};
    used += bytes;
    forget_recent();
}

bool unregister_host(uintptr_t address) {
    auto found = live.find(address);
    if (found == live.end() || strcmp(found->second.kind, "registered host")) return false;
    used -= found->second.bytes;
    forget_shadow(*found->second.shadow);
    delete found->second.shadow;
    live.erase(found);
    forget_recent();
    return true;
}

// A fresh array is zero and takes no memory until it is written: keep it so.
void fill_zero(uintptr_t address, size_t bytes) {
    uintptr_t low = (address + PAGE - 1) / PAGE * PAGE, high = (address + bytes) / PAGE * PAGE;
    if (bytes <= POISONED_UP_TO || high <= low) {
        memset(reinterpret_cast<void*>(address), 0, bytes);
        return;
    }
    memset(reinterpret_cast<void*>(address), 0, low - address);
    madvise(reinterpret_cast<void*>(low), high - low, MADV_DONTNEED);
    memset(reinterpret_cast<void*>(high), 0, address + bytes - high);
}

Code check_range(const char* function, const char* what, uintptr_t address, size_t bytes) {
    if (!bytes) return SUCCESS;
    const auto* entry = find_allocation(address);
    const std::string start = std::string(function) + ": " + what + " ";
    if (!entry) {
        if (!address) return error(INVALID_VALUE, start + "is a null pointer (an empty array has no device memory)");
        if (find_freed(address)) return error(INVALID_VALUE, start + "points to memory that has been freed");
        return error(INVALID_VALUE, start + "is not device memory");
    }
    const size_t left = entry->first + entry->second.bytes - address;
    if (bytes > left)
        return error(INVALID_VALUE, start + "has " + number(left) + " bytes left, but " + number(bytes) +
                                        " are to be copied");
    return SUCCESS;
}

}  // namespace emulator
