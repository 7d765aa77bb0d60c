// What the lanes of a warp do together, and the instructions that tiles.h and parts.h are made of: one
// function each, so that a test can put a warp of its own in their place and run tiles.h without a GPU.
#pragma once

#include <stdint.h>

namespace baton {

constexpr unsigned ALL = 0xffffffffu;

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8 x 8 matrices of 16 bits, their rows at the addresses of lanes 0-7, 8-15, 16-23 and 24-31.
__device__ __forceinline__ void load_rows(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same, transposed.
__device__ __forceinline__ void load_columns(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// Four e4m3 → the lower two and the upper two as f16, which holds each of them exactly.
__device__ __forceinline__ void widen(uint32_t& low, uint32_t& high, uint32_t four) {
    asm("{\n\t.reg .b16 l, h;\n\t"
        "mov.b32 {l, h}, %2;\n\t"
        "cvt.rn.f16x2.e4m3x2 %0, l;\n\t"
        "cvt.rn.f16x2.e4m3x2 %1, h;\n\t}"
        : "=r"(low), "=r"(high)
        : "r"(four));
}

// Byte i of the result is the one that nibble i of `order` numbers: 0-3 of a, 4-7 of b.
__device__ __forceinline__ uint32_t choose_bytes(uint32_t a, uint32_t b, uint32_t order) {
    return __byte_perm(a, b, order);
}

// The warp's 8 x 8 matrix of 16 bits, two neighbouring columns a lane, transposed.
__device__ __forceinline__ uint32_t transpose(uint32_t two) {
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(two));
    return r;
}

__device__ __forceinline__ float from_lane(float x, int distance) { return __shfl_xor_sync(ALL, x, distance); }

__device__ __forceinline__ bool any_lane(bool x) { return __any_sync(ALL, x); }

// Not __ldg: the compiler may move that ahead of the wait for the kernel that writes q.
__device__ __forceinline__ uint32_t read_fresh(const void* from) {
    return __ldcg(static_cast<const uint32_t*>(from));
}

// What is made of it is not made before a loop and kept in registers.
__device__ __forceinline__ int computed_here(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

}  // namespace baton
