// Unified memory: host and device use the same pointers, one after the other. A linked list and an array of structs.
#include <chrono>
#include <cstdio>

struct Particle {
    float3 position, velocity;
    int id;
};
struct Node {
    int value;
    Node* next;
};

__global__ void move(Particle* particles, int n, float dt) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Particle p = particles[i];
    p.position.x += p.velocity.x * dt;
    p.position.y += p.velocity.y * dt;
    p.position.z += p.velocity.z * dt;
    particles[i] = p;
}

__global__ void sum_list(const Node* node, int* sum) {
    for (*sum = 0; node; node = node->next) *sum += node->value;
}

int main() {
    const int n = 300;
    Particle* particles;
    cudaMallocManaged(&particles, n * sizeof(Particle));
    for (int i = 0; i < n; i++) {
        particles[i].position = make_float3(i, 2 * i, 3 * i);
        particles[i].velocity = make_float3(1, -1, 0.5f);
        particles[i].id = i;
    }
    auto begin = std::chrono::steady_clock::now();
    int device;
    cudaGetDevice(&device);
    for (int step = 0; step < 4; step++) {
        move<<<(n + 127) / 128, 128>>>(particles, n, 0.25f);
        cudaDeviceSynchronize();
        particles[0].velocity.x += 1;  // the host's turn
    }
    std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    printf("4 steps in %.2f ms\n", took.count());
    bool ok = particles[0].position.x == 0.25f * (1 + 2 + 3 + 4);
    for (int i = 1; i < n; i++) ok = ok && particles[i].position.x == i + 1 && particles[i].position.y == 2 * i - 1 && particles[i].id == i;

    Node* head = nullptr;
    for (int i = 1; i <= 10; i++) {
        Node* node;
        cudaMallocManaged(&node, sizeof(Node));
        node->value = i, node->next = head;
        head = node;
    }
    int* sum;
    cudaMallocManaged(&sum, sizeof(int));
    sum_list<<<1, 1>>>(head, sum);
    cudaDeviceSynchronize();
    ok = ok && *sum == 55;
    printf("sum of the list: %d\n%s\n", *sum, ok ? "PASSED" : "FAILED");
    while (head) {
        Node* next = head->next;
        cudaFree(head);
        head = next;
    }
    cudaFree(sum);
    cudaFree(particles);
    return ok ? 0 : 1;
}
