// Legal CUDA as it is found in the wild: every way to declare a kernel, and every way to launch one. Prints "all right".
#include <cstdio>

#include "spellings.cuh"

#if 0
__global__ void in_if_0(float*) { nonsense }
#endif
#ifdef NOT_DEFINED
__global__ void in_ifdef(int*) { nonsense }
#endif
#define KERNEL __global__ void
KERNEL by_macro(float* x) { x[0] = 1; }

namespace a {
namespace {
__global__ void inner(float* x) { x[0] = 2; }
}  // namespace
namespace b {
__global__ void with_default(float* x, int n = 3) { x[0] = n; }
}  // namespace b
}  // namespace a
namespace c::d {
struct Value { int v; };
__global__ void overloaded(Value value, float* x) { x[0] = value.v; }
__global__ void overloaded(float* x) { x[0] = 5; }
}  // namespace c::d

void __global__ void_first(float* x) {
    extern float __shared__ s[];
    s[0] = 6;
    x[0] = s[0];
}
__global__ void rows(float* x) {
    extern __shared__ float s[][4];
    s[1][2] = 21;
    x[0] = s[1][2];
}
static __global__ __launch_bounds__(64, 2) void bounded(float* x) {
    static __shared__ float t[2 * (1 + 1)], u;
    t[0] = 7, u = 0;
    x[0] = t[0] + u;
}
__device__ __forceinline__ float twice(float x) { return 2 * x; }
struct Plus9 {
    __device__ float operator()(float x) const { return x + 9; }
};
template <class F> __global__ void apply(F f, float* x) { x[0] = f(4.0f); }
typedef float (*Operation)(float);
__global__ void by_pointer(Operation f, float* x) { x[0] = f ? f(1.0f) : 9; }
template <int N, class T> __global__ void partly_deduced(T* x) { x[0] = N; }
template <> __global__ void partly_deduced<3, float>(float* x) { x[0] = 11; }
__global__ void converts(float* null, float b, float* x) { x[0] = null ? 0 : b; }
template <class T> void launches_in_a_template(T* x) { partly_deduced<13><<<1, 1>>>(x); }

struct WithCopy {
    float x;
    __host__ __device__ WithCopy(float v) : x(v) {}
    __host__ __device__ WithCopy(const WithCopy& other) : x(other.x) {}
};
__global__ void by_value(WithCopy value, float* x) { x[0] = value.x; }

__constant__ float table[2];
__device__ float total;
__global__ void symbols(float* x) {
    total += table[1];
    x[0] = total;
}

__global__ void same_name(float* x, int n) { x[0] = n; }
static void same_name(float* x, int n, int block) { same_name<<<1, block>>>(x, n); }

static int calls;
static int counted() {
    static int s = 0;  // a host's static with the name of a kernel's __shared__ array is left alone
    calls = ++s;
    return s;
}

static float* d;
static bool right = true;
static void expect(float wanted, const char* what) {
    float got = -1;
    const cudaError_t error = cudaMemcpy(&got, d, sizeof got, cudaMemcpyDeviceToHost);
    if (error || got != wanted) right = false, printf("%s: got %g, expected %g (%s)\n", what, got, wanted, cudaGetErrorString(error));
}

int main() {
    cudaMalloc(&d, sizeof(float));
    counted();
    const clock_t start = clock();  // <time.h> comes with CUDA's header
    by_macro<<<1, 1>>>(d), expect(1, "in a macro");
    a::inner<<<1, 1>>>(d), expect(2, "nameless namespace");
    a::b::with_default<<<1, 1>>>(d, 4), expect(4, "default argument given");
    c::d::overloaded<<<1, 1>>>(c::d::Value{3}, d), expect(3, "one overload");
    c::d::overloaded<<<1, 1>>>(d), expect(5, "the other overload");
    void_first<<<1, 1, 4>>>(d), expect(6, "void __global__, extern float __shared__");
    rows<<<1, 1, 32>>>(d), expect(21, "dynamic shared memory of rows");
    bounded
        <<<1,
           1>>>
        (d), expect(7, "a launch over four lines");
    apply<<<dim3(1, 1), dim3(1)>>>(twice, d), expect(8, "a __forceinline__ function as an argument");
    apply<<<1, 1>>>(Plus9(), d), expect(13, "a functor");
    apply<<<1, 1>>>([] __device__(float x) { return x * 5; }, d), expect(20, "a lambda");
    by_pointer<<<1, 1>>>(NULL, d), expect(9, "NULL for a pointer to a function");
    partly_deduced<10><<<1, 1>>>(d), expect(10, "one template argument given, one deduced");
    partly_deduced<3, float><<<1, 1>>>(d), expect(11, "a specialisation");
    launches_in_a_template(d), expect(13, "a launch in a template");
    converts<<<1, 1>>>(NULL, 12, d), expect(12, "NULL, and an int for a float");
    from_header<<<1, 1>>>(d), expect(14, "a kernel in a header");
    a::b::with_default<<<1, 1>>>(d), expect(3, "default argument taken");
    same_name(d, 17, 32), expect(17, "a host function with a kernel's name");
    by_value<<<1, 1>>>(WithCopy(15), d), expect(15, "an argument with a copy constructor");
    void (*pointer)(float*) = by_macro;
    (*pointer)<<<1, 1>>>(d), expect(1, "through a pointer");
    void (*pointers[])(float*) = {by_macro, void_first};
    pointers[1]<<<1, 1, 8>>>(d), expect(6, "through an array of pointers");
    void* arguments[] = {&d};
    cudaLaunchKernel((void*)by_macro, dim3(1), dim3(1), arguments, 0, 0), expect(1, "cudaLaunchKernel");
    cudaFuncSetAttribute(void_first, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000);
    void_first<<<1, 1, 100000>>>(d), expect(6, "100 kB of dynamic shared memory");
    const float numbers[2] = {1, 16};
    const float zero = 0;
    cudaMemcpyToSymbol(table, numbers, sizeof numbers);
    cudaMemcpyToSymbol(total, &zero, sizeof zero);
    symbols<<<1, 1>>>(d), expect(16, "__constant__ and __device__ variables");
    float back = 0;
    cudaMemcpyFromSymbol(&back, total, sizeof back);
    if (back != 16 || counted() != 2) right = false, printf("a variable has lost its value: %g, %d\n", back, calls);
    cudaFree(d);
    if (clock() < start) right = false;
    printf(right ? "all right\n" : "wrong\n");
    return !right;
}
