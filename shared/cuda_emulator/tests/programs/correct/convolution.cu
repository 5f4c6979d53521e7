// A two-dimensional convolution with the filter in constant memory and an image of three channels.
#include <cmath>
#include <iostream>
#include <vector>

#define CHECK_CUDA(expression)                                                                        \
    if (cudaError_t e = (expression); e != cudaSuccess) {                                             \
        std::cerr << #expression << " failed: " << cudaGetErrorString(e) << std::endl;                \
        return 1;                                                                                     \
    }

constexpr int R = 2, WIDTH = 2 * R + 1, CHANNELS = 3;
__constant__ float d_filter[WIDTH][WIDTH];

__global__ void convolve(const float* image, float* out, int w, int h) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, channel = blockIdx.z;
    if (x >= w || y >= h) return;
    const float* plane = image + channel * w * h;
    float sum = 0;
    for (int i = -R; i <= R; i++)
        for (int j = -R; j <= R; j++) {
            int row = min(max(y + i, 0), h - 1), col = min(max(x + j, 0), w - 1);
            sum += d_filter[i + R][j + R] * plane[row * w + col];
        }
    out[(channel * h + y) * w + x] = sum;
}

int main() {
    const int w = 30, h = 19, n = w * h * CHANNELS;
    std::vector<float> image(n), out(n);
    float filter[WIDTH][WIDTH];
    for (int i = 0; i < n; i++) image[i] = (i * 31 % 256) / 255.0f;
    for (int i = 0; i < WIDTH; i++)
        for (int j = 0; j < WIDTH; j++) filter[i][j] = std::exp(-((i - R) * (i - R) + (j - R) * (j - R)) / 2.0f) / 6.2f;

    float *d_image, *d_out;
    CHECK_CUDA(cudaMalloc(&d_image, n * sizeof(float)));
    CHECK_CUDA(cudaMalloc(&d_out, n * sizeof(float)));
    CHECK_CUDA(cudaMemcpy(d_image, image.data(), n * sizeof(float), cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaMemcpyToSymbol(d_filter, filter, sizeof(filter)));
    convolve<<<dim3((w + 15) / 16, (h + 7) / 8, CHANNELS), dim3(16, 8)>>>(d_image, d_out, w, h);
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemcpy(out.data(), d_out, n * sizeof(float), cudaMemcpyDeviceToHost));

    int bad = 0;
    for (int c = 0; c < CHANNELS; c++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                float sum = 0;
                for (int i = -R; i <= R; i++)
                    for (int j = -R; j <= R; j++) {
                        int row = std::min(std::max(y + i, 0), h - 1), col = std::min(std::max(x + j, 0), w - 1);
                        sum += filter[i + R][j + R] * image[(c * h + row) * w + col];
                    }
                bad += std::abs(sum - out[(c * h + y) * w + x]) > 1e-5f;
            }
    std::cout << (bad ? "FAILED" : "PASSED") << ", " << bad << " of " << n << " pixels differ" << std::endl;
    cudaFree(d_image);
    cudaFree(d_out);
    return bad > 0;
}
