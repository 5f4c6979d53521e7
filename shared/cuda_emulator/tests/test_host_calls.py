"""A kernel that calls a function without __device__ is refused, as by nvcc; what only looks like one is not."""

import pytest
from cuda_emulator import toolchain
from cuda_emulator.text import UnsupportedError

KERNEL = "__global__ void k(float* x) { x[0] = f(x[0]); }\n"
HOST_FUNCTIONS = {
    "plain": "float f(float x) { return x; }\n",
    "template": "template <class T, class U = std::pair<T, T>> T f(T x) { return x; }\n",
    "in a namespace": "namespace a { float f(float x) { return x; } } using namespace a;\n",
    "extern C": 'extern "C" { static inline float f(float x) { return x; } }\n',
    "behind a device function": "float h(float x) { return x; } __device__ float f(float x) { return h(x); }\n",
}
LEGAL = {
    "device": "__device__ float f(float x) { return x; }\n" + KERNEL,
    "both": "__host__ __device__ inline float f(float x) { return x; }\nfloat host() { return f(1); }\n"
    + KERNEL,
    "constexpr": "constexpr float f(float x) { return x; }\n" + KERNEL,
    "declared for the device": "__device__ float f(float x);\n" + KERNEL + "float f(float x) { return x; }\n",
    "an overload": "float f(int a, float x) { return x; } __device__ float f(float x) { return x; }\n"
    + KERNEL,
    "a lambda": "float f(float x) { return x; }\n"
    "__global__ void k(float* x) { auto f = [](float y) { return y; }; x[0] = f(x[0]); }",
    "a functor": "float f(float x) { return x; }\ntemplate <class F> __global__ void k(F f, float* x) { x[0] = f(x[0]); }",
    "a method": "struct S { __device__ float f(float x) const { return x; } }; float f(float x) { return x; }\n"
    "__global__ void k(S s, float* x) { x[0] = s.f(x[0]); }",
    "a constructor": "struct f { float x; __device__ f(float a) : x(a) {} __device__ operator float() { return x; } };\n"
    + KERNEL,
    "host code only": "float f(float x) { return x; }\n__global__ void k(float* x) { x[0] = 1; }\nfloat host() { return f(1); }",
}


@pytest.mark.parametrize("source", HOST_FUNCTIONS.values(), ids=HOST_FUNCTIONS)
def test_a_call_of_the_hosts_is_refused(source):
    line = 1 if "h(x)" in source else 2
    with pytest.raises(
        UnsupportedError,
        match=rf"^k\.cu:{line}: error: .*a call of [fh], a function of the host's.*__device__ is missing",
    ):
        toolchain.compile_kernels(source + KERNEL, "k.cu")


@pytest.mark.parametrize("source", LEGAL.values(), ids=LEGAL)
def test_what_is_legal_compiles(source):
    toolchain.compile_kernels(source, "k.cu")
