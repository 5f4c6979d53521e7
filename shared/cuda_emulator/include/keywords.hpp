// CUDA's keywords, and what source.py puts in the place of launches. Included after the preprocessor has run: until then the keywords
// stand in the text as they are, so that source.py can find them.
#pragma once

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __managed__
#define __launch_bounds__(...)
// `used`: the host writes it by name, which the compiler cannot see and would otherwise fold away.
#define __constant__ __attribute__((used))
// One copy is enough, since blocks run one after another. The driver finds the variables in the symbol table,
// where a function's statics are named _ZZ<function>E<variable>, and poisons them before each block. `used`: without it
// the compiler would know the content of a variable that is never written, and no one would see the mistake.
#define __shared__ static __attribute__((used))

#ifdef EMULATOR_NO_FORCED_INLINE
#define __forceinline__ inline
#else
#define __forceinline__ inline __attribute__((always_inline))
#endif

// A row of the list of kernels, in the kernel's own namespace.
#define EMULATOR_KERNEL(number, kernel, line, max_threads) \
    static const emulator_row emulator_row_##number(emulator_describe(kernel, line, max_threads));

#ifdef EMULATOR_CHECKED
#define EMULATOR_IS_CHECKED 1
#else
#define EMULATOR_IS_CHECKED 0
#endif
#ifdef EMULATOR_PROGRAM  // a program has a main of its own, and tells the driver that it is there
#define EMULATOR_MODULE(shared, device) \
    EMULATOR_MODULE_INFO(shared, device) \
    static const int emulator_registered = emulator_register_program(&emulator_module_info);
#else
#define EMULATOR_MODULE(shared, device) EMULATOR_MODULE_INFO(shared, device)
#endif
#define EMULATOR_MODULE_INFO(shared, device)                                                                         \
    extern "C" __attribute__((visibility("default"), used)) const emulator_module emulator_module_info = { \
        EMULATOR_ABI, EMULATOR_IS_CHECKED, &emulator_rows, shared, device};

#define EMULATOR_LAUNCH(kernel, configuration, ...) \
    emulator_launch(emulator_configuration configuration, kernel __VA_OPT__(, ) __VA_ARGS__)
#define EMULATOR_LAUNCH_DEDUCED(kernel, configuration, ...)                                          \
    emulator_launch_deduced(emulator_configuration configuration, #kernel,                          \
                            [&](auto... emulator_arguments) { kernel(emulator_arguments...); } \
                            __VA_OPT__(, ) __VA_ARGS__)
