// A wrong formula: no rule is broken, and the status is 0. Only the words of the program say that it has failed, which is worth a warning.
#include <cstdio>

__global__ void to_fahrenheit(const float* celsius, float* out) {
    out[threadIdx.x] = celsius[threadIdx.x] * 9 / 5 - 32;  // BUG
}

int main() {
    float celsius[4] = {-40, 0, 37, 100}, out[4];
    float *d_in, *d_out;
    cudaMalloc(&d_in, sizeof celsius);
    cudaMalloc(&d_out, sizeof out);
    cudaMemcpy(d_in, celsius, sizeof celsius, cudaMemcpyHostToDevice);
    to_fahrenheit<<<1, 4>>>(d_in, d_out);
    cudaMemcpy(out, d_out, sizeof out, cudaMemcpyDeviceToHost);
    printf("%s\n", out[3] == 212 ? "PASSED" : "FAILED");
    cudaFree(d_in);
    cudaFree(d_out);
    return 0;
}
