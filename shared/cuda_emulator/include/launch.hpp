// kernel<<<grid, block, shared, stream>>>(arguments) in host code: source.py makes a call of these functions of it.
#pragma once

struct emulator_configuration {
    unsigned sizes[6];
    size_t shared;
    void* stream;
    emulator_configuration(dim3 grid, dim3 block, size_t shared = 0, cudaStream_t stream = 0)
        : sizes{grid.x, grid.y, grid.z, block.x, block.y, block.z}, shared(shared), stream(stream) {}
};

// The kernel's own types decide, as in a call: an int for a float, 0 or NULL for a pointer.
template <class... Parameters>
EMULATOR_INLINE void emulator_launch(void (*kernel)(Parameters...), const emulator_configuration& how,
                                     typename emulator_same<Parameters>::type... arguments) {
    const emulator_kernel described = emulator_describe(kernel, 0, 1024);
    void* pointers[] = {(void*)&arguments..., nullptr};
    emulator_launch_kernel(&described, nullptr, how.sizes, how.shared, how.stream, pointers);
}

// A template whose arguments follow from the call's: each thread makes the call, with copies of the launch's arguments.
template <class Call, class... Arguments>
struct emulator_deduced {
    static inline const Call* call;
    EMULATOR_UNCHECKED static void run(Arguments... arguments) { (*call)(arguments...); }
};
template <class Call, class... Arguments>
EMULATOR_INLINE void emulator_launch_deduced(const char* name, const Call& call, const emulator_configuration& how,
                                             Arguments... arguments) {
    using Deduced = emulator_deduced<Call, Arguments...>;
    Deduced::call = &call;
    const emulator_kernel described = emulator_describe(&Deduced::run, 0, 1024);
    void* pointers[] = {(void*)&arguments..., nullptr};
    emulator_launch_kernel(&described, name, how.sizes, how.shared, how.stream, pointers);
}
