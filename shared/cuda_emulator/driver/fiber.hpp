// A fiber: a CUDA thread with a stack of its own, run by the one OS thread that made the launch.
//
// `enter` runs it until it calls `leave` at a barrier, a warp collective or its end. On x86-64 a switch is eight
// instructions (20 to 60 ns); elsewhere, or with EMULATOR_UCONTEXT, it is swapcontext, which also saves the signal
// mask with a system call (about 500 ns).
#pragma once
#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT
#endif

#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>

class Fiber {
public:
    void prepare(char* stack, size_t size, void (*body)()) {
        getcontext(&own_);
        own_.uc_stack.ss_sp = stack;
        own_.uc_stack.ss_size = size;
        own_.uc_link = nullptr;  // body never returns
        makecontext(&own_, body, 0);
    }
    void enter() { swapcontext(&scheduler_, &own_); }
    void leave() { swapcontext(&own_, &scheduler_); }

private:
    ucontext_t own_;
    static inline ucontext_t scheduler_;
};

#else

extern "C" void emulator_switch(void** save_stack_pointer, void* to_stack_pointer);

class Fiber {
public:
    // A new stack looks as if the fiber had just left: six registers, then the address to return to.
    void prepare(char* stack, size_t size, void (*body)()) {
        void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + size) & ~uintptr_t(15));
        *--top = nullptr;  // where body would return to; also what keeps its stack 16-byte aligned
        *--top = reinterpret_cast<void*>(body);
        for (int i = 0; i < 6; i++) *--top = nullptr;
        stack_pointer_ = top;
    }
    void enter() { emulator_switch(&scheduler_, stack_pointer_); }
    void leave() { emulator_switch(&stack_pointer_, scheduler_); }

private:
    void* stack_pointer_;
    static inline void* scheduler_;
};
#endif
