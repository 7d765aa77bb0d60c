// What product.cu asks of the chip: barriers in shared memory, the copy engine, matrix descriptors. Expects CLUSTER.
#pragma once

#include <cstdint>

namespace baton {

struct alignas(64) TensorMap {
    uint64_t words[16];
};

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_init(uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra over;\n"
        "bra again;\n"
        "over:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive_here(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival at the barrier of that place in block `rank` of the cluster.
__device__ __forceinline__ void barrier_arrive(uint32_t barrier, int rank) {
    if constexpr (CLUSTER == 1) {
        barrier_arrive_here(barrier);
    } else {
        // What is released has been read, not written: no fence, which would cost a microsecond.
        asm volatile(
            "{\n"
            ".reg .b32 there;\n"
            "mapa.shared::cluster.u32 there, %0, %1;\n"
            "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
            "}\n" ::"r"(barrier),
            "r"(rank)
            : "memory");
    }
}

__device__ __forceinline__ void copy(const TensorMap& map, uint32_t to, uint32_t barrier, int depth, int row,
                                     uint64_t hint) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
        "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(depth), "r"(row), "l"(hint)
        : "memory");
}

__device__ __forceinline__ void copy_to_all(const TensorMap& map, uint32_t to, uint32_t barrier, int depth, int row,
                                            uint64_t hint) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(to),
        "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(depth), "r"(row),
        "h"(static_cast<uint16_t>((1 << CLUSTER) - 1)), "l"(hint)
        : "memory");
}

constexpr uint64_t ONCE = 0x12F0000000000000;   // L2: evict first
constexpr uint64_t AGAIN = 0x1000000000000000;  // L2: as usual

// Rows of 128 bytes, swizzled by 128; groups of eight rows lie 1024 bytes apart.
__device__ __forceinline__ uint64_t matrix(uint32_t address) {
    constexpr uint64_t swizzle = 1ull << 62, apart = 64ull << 32, unused = 1ull << 16;
    return swizzle | apart | unused | ((address & 0x3ffff) >> 4);
}

__device__ __forceinline__ void cluster_meets() {
    if constexpr (CLUSTER == 1) {
        __syncthreads();
    } else {
        asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    }
}

}  // namespace baton
