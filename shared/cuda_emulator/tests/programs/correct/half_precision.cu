// Half precision: a dot product with half2, and a conversion to bfloat16 and back.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <vector>

__global__ void dot(const half2* a, const half2* b, float* result, int pairs) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
        float2 product = __half22float2(__hmul2(a[i], b[i]));
        sum += product.x + product.y;
    }
    for (int offset = 16; offset; offset >>= 1) sum += __shfl_down_sync(0xffffffff, sum, offset);
    if (threadIdx.x == 0) *result = sum;
}

__global__ void through_bfloat16(const __half* in, __nv_bfloat16* middle, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        middle[i] = __float2bfloat16(__half2float(in[i]));
        out[i] = __bfloat162float(middle[i]);
    }
}

int main() {
    const int n = 256;
    std::vector<__half> a(n), b(n);
    double expected = 0;
    for (int i = 0; i < n; i++) {
        a[i] = __float2half(0.01f * i), b[i] = __float2half(1.0f - 0.005f * i);
        expected += (double)__half2float(a[i]) * __half2float(b[i]);
    }
    half *d_a, *d_b;
    __nv_bfloat16* d_middle;
    float *d_result, *d_out, result;
    cudaMalloc(&d_a, n * sizeof(half));
    cudaMalloc(&d_b, n * sizeof(half));
    cudaMalloc(&d_middle, n * sizeof(__nv_bfloat16));
    cudaMalloc(&d_result, sizeof(float));
    cudaMalloc(&d_out, n * sizeof(float));
    cudaMemcpy(d_a, a.data(), n * sizeof(half), cudaMemcpyHostToDevice);
    cudaMemcpy(d_b, b.data(), n * sizeof(half), cudaMemcpyHostToDevice);
    dot<<<1, 32>>>((const half2*)d_a, reinterpret_cast<half2*>(d_b), d_result, n / 2);
    cudaMemcpy(&result, d_result, sizeof(float), cudaMemcpyDeviceToHost);
    bool ok = std::abs(result - expected) < 0.05;
    printf("dot product %.3f, expected %.3f\n", result, expected);

    std::vector<float> out(n);
    through_bfloat16<<<2, 128>>>(d_a, d_middle, d_out, n);
    cudaMemcpy(out.data(), d_out, n * sizeof(float), cudaMemcpyDeviceToHost);
    for (int i = 0; i < n; i++) ok &= std::abs(out[i] - 0.01f * i) <= 0.01f * i / 128;
    printf("%s\n", ok ? "PASSED" : "FAILED");
    for (void* p : {(void*)d_a, (void*)d_b, (void*)d_middle, (void*)d_result, (void*)d_out}) cudaFree(p);
    return !ok;
}
