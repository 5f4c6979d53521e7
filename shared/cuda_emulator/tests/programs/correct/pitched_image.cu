// An image with pitch: cudaMallocPitch, cudaMemcpy2D in both directions, cudaMemset2D.
#include <cstdio>
#include <cstring>

struct Image {
    unsigned char* data;
    size_t pitch;
    int width, height;
    __device__ uchar4& at(int x, int y) const { return reinterpret_cast<uchar4*>(data + y * pitch)[x]; }
};

__global__ void to_gray(Image in, Image out) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= in.width || y >= in.height) return;
    uchar4 p = in.at(x, y);
    unsigned char gray = (77 * p.x + 150 * p.y + 29 * p.z) >> 8;
    out.at(x, y) = make_uchar4(gray, gray, gray, p.w);
}

int main() {
    const int width = 33, height = 21, row = width * sizeof(uchar4);
    static uchar4 image[height][width], result[height][width];
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) image[y][x] = make_uchar4(x * 7, y * 11, x ^ y, 255);
    Image in{nullptr, 0, width, height}, out = in;
    cudaMallocPitch(&in.data, &in.pitch, row, height);
    cudaMallocPitch((void**)&out.data, &out.pitch, row, height);
    if (in.pitch < row || in.pitch % 4) return printf("strange pitch %zu\n", in.pitch), 1;
    cudaMemset2D(out.data, out.pitch, 0, row, height);
    cudaMemcpy2D(in.data, in.pitch, image, row, row, height, cudaMemcpyHostToDevice);
    dim3 threads(16, 16);
    dim3 blocks((width + threads.x - 1) / threads.x, (height + threads.y - 1) / threads.y);
    to_gray<<<blocks, threads>>>(in, out);
    cudaMemcpy2D(result, row, out.data, out.pitch, row, height, cudaMemcpyDeviceToHost);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            const uchar4 p = image[y][x], q = result[y][x];
            const int gray = (77 * p.x + 150 * p.y + 29 * p.z) >> 8;
            if (q.x != gray || q.y != gray || q.z != gray || q.w != 255) return printf("FAILED at (%d, %d)\n", x, y), 1;
        }
    cudaFree(in.data);
    cudaFree(out.data);
    puts("PASSED");
    return 0;
}
