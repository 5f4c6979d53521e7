// cuRAND on the device: NVIDIA's own header, from the package nvidia-curand or a toolkit, where one is installed.
// It has plain C++ for the host beside the device's PTX, which makes the same random bits; here the host's is taken.
#pragma once
#ifndef EMULATOR_CURAND  // the path of NVIDIA's curand_kernel.h: curand.py
#error "not supported by the CPU emulator: <curand_kernel.h> without NVIDIA's own (pip install nvidia-curand)"
#endif

#pragma GCC system_header  // NVIDIA's too, then: source.py passes over it
typedef enum libraryPropertyType_t { MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL } libraryPropertyType;
#define __NV_SILENCE_DEPRECATION_BEGIN
#define __NV_SILENCE_DEPRECATION_END
#define HOST_HAVE_ERFCINVF
#define EMULATOR_IN_CURAND

// MTGP32 has no code for the host, but barriers. A kernel that uses it lacks these names, and is not loaded.
#define blockDim emulator_has_no_MTGP32
#define threadIdx emulator_has_no_MTGP32_index
#pragma push_macro("__CUDA_ARCH__")
#undef __CUDA_ARCH__
#include EMULATOR_CURAND
#pragma pop_macro("__CUDA_ARCH__")
#undef threadIdx
#undef blockDim
#undef EMULATOR_IN_CURAND
