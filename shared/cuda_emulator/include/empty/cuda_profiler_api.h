// What kernels need of it is in device.hpp, which is included already.
#pragma once
