// Prints what the device can do, and picks a block size by the occupancy calculator.
#include <cstdio>
#include <cstdlib>

__global__ void fill(int* out, int n, int value) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = value;
}

int main() {
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
        printf("no CUDA device: %s\n", cudaGetErrorString(error));
        return EXIT_FAILURE;
    }
    for (int device = 0; device < count; device++) {
        cudaDeviceProp prop;
        cudaGetDeviceProperties(&prop, device);
        printf("Device %d: %s, compute capability %d.%d\n", device, prop.name, prop.major, prop.minor);
        printf("  global memory:         %.1f GiB\n", prop.totalGlobalMem / 1073741824.0);
        printf("  shared memory / block: %zu KiB\n", prop.sharedMemPerBlock >> 10);
        printf("  multiprocessors:       %d\n", prop.multiProcessorCount);
        printf("  warp size:             %d\n", prop.warpSize);
        printf("  threads / block:       %d (%d x %d x %d)\n", prop.maxThreadsPerBlock, prop.maxThreadsDim[0], prop.maxThreadsDim[1],
               prop.maxThreadsDim[2]);
        printf("  grid:                  %d x %d x %d\n", prop.maxGridSize[0], prop.maxGridSize[1], prop.maxGridSize[2]);
        if (prop.warpSize != 32 || prop.maxThreadsPerBlock < 1024) return EXIT_FAILURE;
    }
    cudaSetDevice(0);
    int driver = 0, runtime = 0, warp = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaDeviceGetAttribute(&warp, cudaDevAttrWarpSize, 0);
    printf("driver %d.%d, runtime %d.%d\n", driver / 1000, driver % 100 / 10, runtime / 1000, runtime % 100 / 10);

    int grid = 0, block = 0;
    cudaOccupancyMaxPotentialBlockSize(&grid, &block, fill, 0, 0);
    const int n = 3000;
    int *d_out, *out = new int[n];
    cudaMalloc(&d_out, n * sizeof(int));
    fill<<<(n + block - 1) / block, block>>>(d_out, n, warp);
    cudaMemcpy(out, d_out, n * sizeof(int), cudaMemcpyDeviceToHost);
    int sum = 0;
    for (int i = 0; i < n; i++) sum += out[i];
    cudaFree(d_out);
    delete[] out;
    printf("blocks of %d threads, sum %d\n", block, sum);
    return sum == 32 * n ? EXIT_SUCCESS : EXIT_FAILURE;
}
