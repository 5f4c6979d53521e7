// The first program of every course. Its lines come in another order under each schedule, which is no error.
#include <stdio.h>

__global__ void hello() { printf("Hello from thread %d of block %d\n", threadIdx.x, blockIdx.x); }

int main() {
    printf("Hello from the host\n");
    hello<<<2, 4>>>();
    cudaDeviceSynchronize();
    return 0;
}
