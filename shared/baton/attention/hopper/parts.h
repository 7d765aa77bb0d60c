// How the parts of a pair that several warps share come together. Part of decode.cu.
//
// A part is, for each query, HEAD_DIM unscaled sums, the maximum they were scaled by (log2) and the
// denominator. It passes within a block through shared memory, between blocks through the step's scratch,
// whose words say themselves whether they are there: they hold ABSENT until written, and their one reader
// puts ABSENT back for the next launch. So no fence and no counter stands between writer and reader.
#pragma once

#include "tiles.h"

namespace baton {

constexpr int LANE_DIMS = HEAD_DIM / 32;
constexpr int PART_FLOATS = QUERIES * HEAD_DIM + (2 * QUERIES + 3) / 4 * 4;
constexpr uint32_t ABSENT = 0xffffffffu;  // a NaN that no store writes

template <int N>
struct Words {
    uint32_t x[N];

    __device__ __forceinline__ static uint32_t present(float value) {
        return __float_as_uint(value) == ABSENT ? 0x7fffffffu : __float_as_uint(value);
    }
    __device__ __forceinline__ float operator[](int i) const { return __uint_as_float(x[i]); }
    __device__ __forceinline__ bool absent() const {
        bool any = false;
#pragma unroll
        for (int i = 0; i < N; ++i) any |= x[i] == ABSENT;
        return any;
    }
    __device__ __forceinline__ void read(const float* from) {
        if constexpr (N == 4)
            asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                         : "l"(from)
                         : "memory");
        else
            asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
                         : "=r"(x[0]), "=r"(x[1])
                         : "l"(from)
                         : "memory");
    }
    __device__ __forceinline__ void write(float* to) const {
        if constexpr (N == 4)
            asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x[0]), "r"(x[1]),
                         "r"(x[2]), "r"(x[3])
                         : "memory");
        else
            asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(x[0]), "r"(x[1]) : "memory");
    }
    __device__ __forceinline__ static void forget(float* at) {
        Words words;
#pragma unroll
        for (int i = 0; i < N; ++i) words.x[i] = ABSENT;
        words.write(at);
    }
};

// HEADS query heads of a pair from `head` on; each lane holds LANE_DIMS dims of each.
template <int HEADS>
struct Merge {
    static constexpr int AT_ONCE = HEADS < 8 ? 8 / HEADS : 1;  // parts read in one go

    const Step& step;
    int head, lane;
    float peak[HEADS], total[HEADS], out[HEADS][LANE_DIMS];

    __device__ __forceinline__ Merge(const Step& step_, int head_, int lane_)
        : step(step_), head(head_), lane(lane_) {
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            peak[h] = -INFINITY, total[h] = 0;
#pragma unroll
            for (int d = 0; d < LANE_DIMS; ++d) out[h][d] = 0;
        }
    }

    // The first part taken in must not be empty.
    template <class Dims>
    __device__ __forceinline__ void take(int h, float other_peak, float other_total, const Dims& dims) {
        const float grown = fmaxf(peak[h], other_peak);
        const float mine = exp2_fast(peak[h] - grown), theirs = exp2_fast(other_peak - grown);
        peak[h] = grown;
        total[h] = total[h] * mine + other_total * theirs;
#pragma unroll
        for (int d = 0; d < LANE_DIMS; ++d) out[h][d] = out[h][d] * mine + dims[d] * theirs;
    }

    // A part of this block, laid out in shared memory.
    __device__ __forceinline__ void take_near(const float* part) {
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            const float* ends = part + QUERIES * HEAD_DIM + (head + h) * 2;
            take(h, ends[0], ends[1], part + (head + h) * HEAD_DIM + lane * LANE_DIMS);
        }
    }

    // The parts that teams [first, end) leave, as soon as they are there.
    __device__ __forceinline__ void take_far(int first, int end) {
        for (; first < end; first += AT_ONCE) {
            // Item i is head i % HEADS of part i / HEADS.
            float* sums = far_sums(first);
            float* ends = far_ends(first);
            Words<LANE_DIMS> dims[AT_ONCE * HEADS];
            Words<2> ending[AT_ONCE * HEADS];
            bool absent;
            do {
                absent = false;
#pragma unroll
                for (int i = 0; i < AT_ONCE * HEADS; ++i)
                    if (first + i / HEADS < end) {
                        dims[i].read(sums + (i / HEADS * QUERIES + i % HEADS) * HEAD_DIM);
                        ending[i].read(ends + (i / HEADS * QUERIES + i % HEADS) * 2);
                    }
#pragma unroll
                for (int i = 0; i < AT_ONCE * HEADS; ++i)
                    if (first + i / HEADS < end) absent |= ending[i].absent() || dims[i].absent();
            } while (__any_sync(ALL, absent));
#pragma unroll
            for (int i = 0; i < AT_ONCE * HEADS; ++i)
                if (first + i / HEADS < end) {
                    Words<LANE_DIMS>::forget(sums + (i / HEADS * QUERIES + i % HEADS) * HEAD_DIM);
                    if (lane == 0) Words<2>::forget(ends + (i / HEADS * QUERIES + i % HEADS) * 2);
                    take(i % HEADS, ending[i][0], ending[i][1], dims[i]);
                }
        }
    }

    // Leaves what this holds for the pair's first owner.
    __device__ __forceinline__ void leave(int team) const {
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            Words<LANE_DIMS> dims;
#pragma unroll
            for (int d = 0; d < LANE_DIMS; ++d) dims.x[d] = Words<LANE_DIMS>::present(out[h][d]);
            dims.write(far_sums(team) + h * HEAD_DIM);
            const Words<2> ending{{Words<2>::present(peak[h]), Words<2>::present(total[h])}};
            if (lane == 0) ending.write(far_ends(team) + h * 2);
        }
    }

    __device__ __forceinline__ void store(const Segment& segment, const Tokens& tokens) const {
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            if (!tokens.has(head + h)) continue;
            uint16_t* to = result(step, tokens, segment.head, head + h) + lane * LANE_DIMS;
            const float scale = step.value_scale / total[h];
#pragma unroll
            for (int d = 0; d < LANE_DIMS; d += 2)
                *reinterpret_cast<uint32_t*>(to + d) = pack_bf16(out[h][d] * scale, out[h][d + 1] * scale);
        }
    }

    __device__ __forceinline__ float* far_sums(int team) const {
        return step.sums + (static_cast<int64_t>(team) * QUERIES + head) * HEAD_DIM + lane * LANE_DIMS;
    }
    __device__ __forceinline__ float* far_ends(int team) const {
        return step.peaks + (static_cast<int64_t>(team) * QUERIES + head) * 2;
    }
};

}  // namespace baton
