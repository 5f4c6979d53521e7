// What the files of the driver API share: the live handles, and the checks at the start of most calls.
#pragma once
#include <set>

#include "emulator.hpp"

#define API extern "C" __attribute__((visibility("default"))) int
using Pointer = unsigned long long;

namespace emulator {

// The live handles of one kind: whatever is not among them is an error, not a crash.
template <class T>
struct Handles {
    std::set<T*> live;
    T* add(T* handle) { return live.insert(handle).first.operator*(); }
    T* find(void* handle) const {
        auto found = live.find(static_cast<T*>(handle));
        return found == live.end() ? nullptr : *found;
    }
    bool destroy(void* handle) {
        T* found = find(handle);
        if (!found) return false;
        live.erase(found);
        delete found;
        return true;
    }
};

struct Context;
extern Context* primary_context;
Code need_context();              // initialised, and a context is current
Code need_stream(void* stream);  // it exists

}  // namespace emulator

#define NEED_CONTEXT                              \
    if (Code missing = need_context()) return missing
#define NEED_STREAM(stream)                                  \
    if (Code missing = need_stream(stream)) return missing

extern "C" __attribute__((visibility("default"))) int emulator_not_supported(const char* name);
