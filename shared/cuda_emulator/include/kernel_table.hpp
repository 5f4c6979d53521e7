// How the driver finds and calls the kernels of one file: source.py appends a row for each to its text.
#pragma once
#include <initializer_list>

// These run inside a kernel's thread but read the host's argument array, which is not the kernel's doing.
#define EMULATOR_UNCHECKED __attribute__((no_sanitize("thread"), no_sanitize("undefined")))

template <class... Parameters>
struct emulator_signature {
    // CUDA packs the arguments like the members of a struct.
    static inline size_t table[2 * sizeof...(Parameters) + 2];  // a local static would pass for __shared__
    static const size_t* layout() {
        const size_t n = sizeof...(Parameters);
        size_t offset = 0, i = 0;
        table[0] = n;
        (void)std::initializer_list<int>{
            (offset = (offset + alignof(Parameters) - 1) / alignof(Parameters) * alignof(Parameters),
             table[1 + i] = sizeof(Parameters), table[1 + n + i] = offset, offset += sizeof(Parameters), ++i, 0)...};
        table[2 * n + 1] = offset;
        return table;
    }
    template <size_t... I>
    EMULATOR_UNCHECKED static void unpack(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[I])...);
    }
    EMULATOR_UNCHECKED static void call(void (*function)(), void** arguments) {
        unpack(reinterpret_cast<void (*)(Parameters...)>(function), arguments,
               std::make_index_sequence<sizeof...(Parameters)>{});
    }
};

template <class... Parameters>
static emulator_kernel emulator_describe(void (*kernel)(Parameters...), int line, unsigned max_threads) {
    using Signature = emulator_signature<Parameters...>;
    return {reinterpret_cast<void (*)()>(kernel), Signature::call, Signature::layout(), line, max_threads, nullptr};
}

// The kernels of a file, as a list: each row puts itself in front of it when the object is loaded.
static const emulator_kernel* emulator_rows;
struct emulator_row {
    emulator_kernel kernel;
    EMULATOR_UNCHECKED emulator_row(const emulator_kernel& described) : kernel(described) {
        kernel.next = emulator_rows;
        emulator_rows = &kernel;
    }
};
