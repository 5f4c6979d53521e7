// Modern C++ around CUDA: a buffer that frees itself, exceptions, kernels that take a functor.
#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

inline void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

template <typename T>
class DeviceBuffer {
   public:
    explicit DeviceBuffer(size_t size) : size_(size) { check(cudaMalloc(&data_, size * sizeof(T))); }
    explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size()) {
        check(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~DeviceBuffer() { cudaFree(data_); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;
    DeviceBuffer(DeviceBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    T* get() { return data_; }
    size_t size() const { return size_; }
    std::vector<T> to_host() const {
        std::vector<T> host(size_);
        check(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }

   private:
    T* data_ = nullptr;
    size_t size_ = 0;
};

struct StreamDeleter {
    void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};

template <typename T, typename F>
__global__ void transform(const T* in, T* out, size_t n, F f) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[i] = f(in[i]);
}

template <typename T>
struct Scale {
    T factor;
    __device__ T operator()(T v) const { return factor * v; }
};

template <typename T, typename F>
DeviceBuffer<T> apply(DeviceBuffer<T>& in, F f) {
    DeviceBuffer<T> out(in.size());
    cudaStream_t raw;
    check(cudaStreamCreate(&raw));
    std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter> stream(raw);
    transform<<<(in.size() + 63) / 64, 64, 0, stream.get()>>>(in.get(), out.get(), in.size(), f);
    check(cudaGetLastError());
    check(cudaStreamSynchronize(stream.get()));
    return out;
}

int main() try {
    std::vector<double> numbers(200);
    for (size_t i = 0; i < numbers.size(); i++) numbers[i] = i;
    DeviceBuffer<double> input(numbers);
    auto scaled = apply(input, Scale<double>{3});
    auto rooted = apply(scaled, [] __device__(double v) { return sqrt(v); });
    const auto result = rooted.to_host();
    for (size_t i = 0; i < result.size(); i++)
        if (std::abs(result[i] - std::sqrt(3.0 * i)) > 1e-12) throw std::runtime_error("wrong at " + std::to_string(i));
    DeviceBuffer<int> whole(std::vector<int>{1, 2, 3});
    if (apply(whole, Scale<int>{-2}).to_host() != std::vector<int>{-2, -4, -6}) throw std::runtime_error("wrong integers");
    std::puts("PASSED");
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "FAILED: %s\n", error.what());
    return 1;
}
