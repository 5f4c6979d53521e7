// CUDA C++ for the host's compiler. The nvcc stand-in includes this file ahead of every .cu file.
//
// What is where: built-in variables here (the keywords are source.py's), vectors.hpp, warp.hpp (barriers, shuffles, votes),
// atomics.hpp, math.hpp, kernel_table.hpp (how the driver finds the kernels). A kernel that asks for something
// that is in none of them fails to compile, with the name of what is missing: never a wrong number.
#pragma once
// math.h and stdlib.h, not only <cmath>: they put abs(float), log(float) ... into the global namespace, as nvcc does.
// Without them abs(-0.5f) would be the integer one.
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "abi.hpp"

#define __CUDA_EMULATOR__ 1
// Always inlined, so that the driver's caller is the user's line.
#define EMULATOR_INLINE static inline __attribute__((always_inline))
#define __CUDA_ARCH__ 900
#define __CUDACC__ 1
#define __NVCC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

// The driver sets these at each switch of thread. To one thread they never change, hence const: the compiler may
// keep them in registers, and assigning to one is the error that nvcc makes of it. blockDim and gridDim are uint3 and
// not dim3: reads of a class with constructors would go through the access hooks.
extern "C" {
extern const uint3 threadIdx, blockIdx, blockDim, gridDim;
}
static constexpr int warpSize = 32;

#include "assert.h"
#define __trap emulator_trap

#include "vectors.hpp"
#include "warp.hpp"
#include "atomics.hpp"
#include "math.hpp"
#include "kernel_table.hpp"
#include "runtime.hpp"
#include "launch.hpp"
