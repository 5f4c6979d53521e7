// 4-bit floats have no emulation yet; without this file a toolkit's header might be found.
#pragma once
#error "not supported by the CPU emulator: cuda_fp4.h (4-bit floating point)"
