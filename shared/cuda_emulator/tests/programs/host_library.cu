// Host code that uses the standard library as programs do, beside a kernel. Ends with status 0.
#include <cuda.h>
#include <cuda_runtime.h>
#include <device_launch_parameters.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>
using namespace std;

__device__ __noinline__ float twice(float x) { return 2 * x; }
__global__ void kernel(float* x, int n) {
    int i = threadIdx.x;
    if (i < n) x[i] = max(twice(x[i]), 1.0f) + min(i, 3);
}

int main() {
    auto shared = make_shared<int>(3);
    vector<float> x(10);
    iota(x.begin(), x.end(), 0.0f);
    assert(x.size() == 10);
    float* d;
    cudaMalloc(&d, 10 * sizeof(float));
    cudaMemcpy(d, x.data(), 10 * sizeof(float), cudaMemcpyHostToDevice);
    kernel<<<1, 32>>>(d, 10);
    thread([&] { cudaDeviceSynchronize(); }).join();
    cudaMemcpy(x.data(), d, 10 * sizeof(float), cudaMemcpyDeviceToHost);
    const auto start = chrono::steady_clock::now();
    map<string, int> counts{{"a", 1}};
    mt19937 random(1);
    cout << fixed << setprecision(2) << x[9] << " " << max(1, 2) << " " << min(1.5, 2.5) << " " << abs(-1.5) << endl;
    const bool right = x[9] == 21 && counts["a"] == 1 && uniform_real_distribution<float>()(random) < 2;
    return right && chrono::steady_clock::now() >= start ? *shared - 3 : 1;
}
