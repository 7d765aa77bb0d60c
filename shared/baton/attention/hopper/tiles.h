// What one warp does with one staged tile of 16 keys: fold it into a running softmax, on the tensor cores.
//
// The keys are the M side of m16n8k16 and the pair's query heads the N side: S^T = K Q^T, then O^T = V^T P^T.
// Below, `row = lane / 4` and `pair = lane % 4` (the PTX manual's groupID and threadID_in_group): a lane
// holds result columns 2 * pair and 2 * pair + 1, which are query heads. Part of decode.cu.
#pragma once

#include <stdint.h>

#include "shares.h"

namespace baton {

constexpr int COLUMNS = (GROUP + 7) / 8;           // 8-wide tiles of query heads
constexpr int CHUNKS = HEAD_DIM / 16;              // 16-wide tiles of head_dim
constexpr int KEYS_BYTES = TILE * HEAD_DIM * 2;
constexpr int STAGE_BYTES = 2 * KEYS_BYTES;        // K, then V
constexpr unsigned ALL = 0xffffffffu;

// Mirrored by decode.py, field by field.
struct Step {
    const uint16_t* q;         // [batch, kv_heads * GROUP, HEAD_DIM] bf16, rows q_stride apart
    uint16_t* out;             // [batch, kv_heads * GROUP, HEAD_DIM] bf16, contiguous
    const int* table;          // [rows, table_stride]
    const int* rows;           // [batch]
    const int* lengths;        // [batch]
    float* sums;               // [warps, GROUP, HEAD_DIM]: unscaled outputs of shared pairs' later parts
    float* peaks;              // [warps, GROUP, 2]: their running maximum (log2) and denominator
    int q_stride, batch, kv_heads, layers, layer, table_stride, page_tiles, window;
    float scale;               // softmax scale * log2(e)
};

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Where a lane reads 16 bytes (8 dims, number `chunk`) of `slot` in a staged K or V. Rows are 128 bytes, one
// half of head_dim after the other, and the copy engine has exchanged their 16-byte pieces by the row's last
// three bits: eight neighbouring slots meet no bank twice.
__device__ __forceinline__ uint32_t piece(uint32_t keys, int slot, int chunk) {
    const int row = (chunk >> 3) * TILE + slot;
    return keys + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
}

__device__ __forceinline__ void load_rows(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_columns(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// Packs two neighbouring columns and transposes the warp's 8 x 8 matrix of them.
__device__ __forceinline__ uint32_t turn(float low, float high) {
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(pack(low, high)));
    return r;
}

__device__ __forceinline__ float rows_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL, x, 4));
    x = fmaxf(x, __shfl_xor_sync(ALL, x, 8));
    return fmaxf(x, __shfl_xor_sync(ALL, x, 16));
}

__device__ __forceinline__ float rows_sum(float x) {
    x += __shfl_xor_sync(ALL, x, 4);
    x += __shfl_xor_sync(ALL, x, 8);
    return x + __shfl_xor_sync(ALL, x, 16);
}

// The pair's query heads as the B operand; columns past GROUP are zero.
using Queries = uint32_t[COLUMNS][CHUNKS][2];

// A pair's running softmax in one warp, as the fragments of O^T: out[.][i][k] is dim 16 i + row (+ 8 for the
// upper k) of query head 8 n + 2 * pair + (k & 1).
struct Running {
    float out[COLUMNS][CHUNKS][4];
    float peak[COLUMNS][2];   // log2 units, equal in all rows
    float total[COLUMNS][2];  // this lane's own keys only

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
            peak[n][0] = peak[n][1] = -INFINITY;
            total[n][0] = total[n][1] = 0;
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
                for (int k = 0; k < 4; ++k) out[n][i][k] = 0;
        }
    }

    // Folds in one tile. Keys outside [low, high) of the tile are not part of the sequence: their scores
    // are dropped and their V zeroed, since a stale page may hold anything, NaN included.
    __device__ __forceinline__ void fold(uint32_t stage, const Queries& q, float scale, int low, int high, int lane) {
        float score[2][COLUMNS][4];
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k) score[0][n][k] = score[1][n][k] = 0;
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) {
            uint32_t keys[4];
            load_rows(keys, piece(stage, lane & 15, 2 * i + (lane >> 4)));
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) multiply(score[i & 1][n], keys, q[n][i]);
        }
        uint32_t values[CHUNKS][4];
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i)
            load_columns(values[i], piece(stage + KEYS_BYTES, (lane & 7) + (lane >> 4) * 8, 2 * i + (lane >> 3) % 2));
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k) score[0][n][k] += score[1][n][k];
        if (low > 0 || high < TILE) mask(score[0], values, low, high, lane);
        uint32_t weights[COLUMNS][2];
        weigh(weights, score[0], scale);
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) multiply(out[n][i], values[i], weights[n]);
    }

    __device__ __forceinline__ static void mask(float (&score)[COLUMNS][4], uint32_t (&values)[CHUNKS][4], int low,
                                                int high, int lane) {
        const int row = lane >> 2, pair = lane & 3;
        const bool upper = row >= low && row < high, lower = row + 8 >= low && row + 8 < high;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                if (!upper) score[n][k] = -INFINITY;
                if (!lower) score[n][k + 2] = -INFINITY;
            }
        uint32_t keep[2];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const int key = k * 8 + pair * 2;
            keep[k] = (key >= low && key < high ? 0x0000ffffu : 0u) |
                      (key + 1 >= low && key + 1 < high ? 0xffff0000u : 0u);
        }
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
            for (int k = 0; k < 4; ++k) values[i][k] &= keep[k >> 1];
    }

    // Scores → bf16 weights as the B operand, moving the running maximum first.
    __device__ __forceinline__ void weigh(uint32_t (&weights)[COLUMNS][2], const float (&score)[COLUMNS][4],
                                          float scale) {
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
            float grown[2];
#pragma unroll
            for (int k = 0; k < 2; ++k)
                grown[k] = fmaxf(peak[n][k], rows_max(fmaxf(score[n][k], score[n][k + 2])) * scale);
            if (__any_sync(ALL, grown[0] > peak[n][0] || grown[1] > peak[n][1])) {
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const float shrink = exp2_fast(peak[n][k] - grown[k]);
                    total[n][k] *= shrink;
                    peak[n][k] = grown[k];
#pragma unroll
                    for (int i = 0; i < CHUNKS; ++i) {
                        out[n][i][k] *= shrink;
                        out[n][i][k + 2] *= shrink;
                    }
                }
            }
            float weight[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) weight[k] = exp2_fast(score[n][k] * scale - peak[n][k & 1]);
            total[n][0] += weight[0] + weight[2];
            total[n][1] += weight[1] + weight[3];
            weights[n][0] = turn(weight[0], weight[1]);
            weights[n][1] = turn(weight[2], weight[3]);
        }
    }

    // The whole pair was this warp's: writes the result itself.
    __device__ __forceinline__ void store(const Step& step, const Segment& segment, int lane) {
        const int row = lane >> 2, pair = lane & 3;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
            const float left = 1 / rows_sum(total[n][0]), right = 1 / rows_sum(total[n][1]);
            const int query = n * 8 + row;
            const int64_t where = static_cast<int64_t>(segment.seq) * step.kv_heads + segment.head;
            uint16_t* to = step.out + (where * GROUP + query) * HEAD_DIM;
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const uint32_t dims = turn(out[n][i][2 * k] * left, out[n][i][2 * k + 1] * right);
                    if (query < GROUP) *reinterpret_cast<uint32_t*>(to + i * 16 + k * 8 + pair * 2) = dims;
                }
        }
    }

    // This lane's share as rows: a part is sums [GROUP][HEAD_DIM], then (maximum, denominator) [GROUP].
    __device__ __forceinline__ void lay_out(float* part, int lane) const {
        const int row = lane >> 2, pair = lane & 3;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const float all = rows_sum(total[n][k]);
                const int query = n * 8 + pair * 2 + k;
                if (query >= GROUP) continue;
                float* to = part + query * HEAD_DIM + row;
#pragma unroll
                for (int i = 0; i < CHUNKS; ++i) {
                    to[i * 16] = out[n][i][k];
                    to[i * 16 + 8] = out[n][i][k + 2];
                }
                if (row == 0) {
                    part[GROUP * HEAD_DIM + query * 2] = peak[n][k];
                    part[GROUP * HEAD_DIM + query * 2 + 1] = all;
                }
            }
    }
};

}  // namespace baton
