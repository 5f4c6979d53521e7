// 8-bit floats have no emulation yet; without this file a toolkit's header might be found.
#pragma once
#error "not supported by the CPU emulator: cuda_fp8.h (8-bit floating point)"
