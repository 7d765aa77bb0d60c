// What one warp does with one staged tile of 16 keys: fold it into a running softmax, on the tensor cores.
//
// The keys are the M side of m16n8k16 and the pair's queries the N side: S^T = K Q^T, then O^T = V^T P^T. A pair
// has the GROUP query heads of one KV head, of one token or of up to LINES tokens that follow each other; one that
// has few folds fewer columns. Below, `row = lane / 4` and `pair = lane % 4` (the PTX manual's groupID and
// threadID_in_group): a lane holds result columns 2 * pair and 2 * pair + 1, which are queries: first the heads of
// the first token. Part of decode.cu.
//
// Keys and values are bf16, or e4m3 (EIGHT_BITS) that is widened to f16 on its way to the tensor cores, where
// queries and weights then are f16 too. A word of a staged row has four e4m3 where two bf16 would lie, so the
// dims of a 16-wide tile come in another order: a lane's share of K is dims 4 * pair to 4 * pair + 3, and row r
// of V^T is dim 2 r, row 8 + r dim 2 r + 1. Queries and results follow.
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef BATON_LANES
#include BATON_LANES
#else
#include "lanes.h"
#endif
#include "shares.h"

namespace baton {

constexpr int QUERIES = GROUP * LINES;
constexpr int WIDE = (QUERIES + 7) / 8;            // 8-wide tiles of queries: of all tokens ...
constexpr int NARROW = (GROUP + 7) / 8;            // ... and of one
constexpr int CHUNKS = HEAD_DIM / 16;              // 16-wide tiles of head_dim
constexpr bool EIGHT = EIGHT_BITS;
constexpr int ITEM = EIGHT ? 1 : 2;                // bytes
constexpr int KEYS_BYTES = TILE * HEAD_DIM * ITEM;
constexpr int STAGE_BYTES = 2 * KEYS_BYTES;        // K, then V
constexpr int ROW_BYTES = HEAD_DIM * ITEM < 128 ? HEAD_DIM * ITEM : 128;  // of a staged row
constexpr int ROW_PIECES = ROW_BYTES / 16;
constexpr int PIECES = EIGHT ? CHUNKS / 2 : CHUNKS;  // loads of K or V: 32 or 16 dims each
constexpr int DIM_OF_ROW = EIGHT ? 2 : 1;          // of V^T: row r is dim r * DIM_OF_ROW ...
constexpr int DIM_OF_LOWER = EIGHT ? 1 : 8;        // ... and row 8 + r that and so much more
constexpr float F16_MOST = 65504;
// Of a running maximum. With several tokens a tile may hold nothing that the first of them may see.
constexpr float LOWEST = LINES == 1 ? -INFINITY : -1e30f;

// Mirrored by decode.py, field by field.
struct Step {
    const uint16_t* q;         // [tokens, kv_heads * GROUP, HEAD_DIM] bf16, rows q_stride apart
    uint16_t* out;             // [tokens, kv_heads * GROUP, HEAD_DIM] bf16, contiguous
    const int* table;          // [rows, table_stride]
    const int* rows;           // [batch]
    const int* lengths;        // [batch], the last token included
    float* sums;               // [warps, QUERIES, HEAD_DIM]: unscaled outputs of shared pairs' later parts
    float* peaks;              // [warps, QUERIES, 2]: their running maximum (log2) and denominator
    const int* starts;         // [batch + 1]: each one's first token among q and out, of up to LINES; null if that is 1
    int q_stride, batch, kv_heads, layers, layer, table_stride, page_tiles, window;
    float scale;               // softmax scale * log2(e) * what the layer's keys are multiplied by
    float value_scale;         // what its values are multiplied by
};

// Where a lane reads its 16 bytes of `slot` in a staged K or V: in a row's first or second piece (`side`), and for
// load `number` two pieces further each time. Rows are 128 bytes, one half of head_dim after the other where it does
// not fit into one, or 64 bytes; the copy engine has exchanged their 16-byte pieces by the last bits of the 128 bytes
// that they lie in: eight neighbouring slots meet no bank twice.
__device__ __forceinline__ uint32_t first_piece(uint32_t keys, int slot, int side) {
    const int line = slot * ROW_BYTES / 128;
    return keys + slot * ROW_BYTES + (((side ^ line) & (ROW_PIECES - 1)) << 4);
}

__device__ __forceinline__ uint32_t piece(uint32_t first, int number) {
    return (first ^ (2 * number % ROW_PIECES << 4)) + 2 * number / ROW_PIECES * TILE * ROW_BYTES;
}

__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (EIGHT) multiply_f16(c, a, b);
    else multiply_bf16(c, a, b);
}

__device__ __forceinline__ uint32_t turned_weights(float low, float high) {
    return transpose(EIGHT ? pack_f16(low, high) : pack_bf16(low, high));
}

__device__ __forceinline__ float rows_max(float x) {
    x = fmaxf(x, from_lane(x, 4));
    x = fmaxf(x, from_lane(x, 8));
    return fmaxf(x, from_lane(x, 16));
}

__device__ __forceinline__ float rows_sum(float x) {
    x += from_lane(x, 4);
    x += from_lane(x, 8);
    return x + from_lane(x, 16);
}

// The tokens of a sequence in the batch: the first one's number among q and out.
struct Tokens {
    int64_t first;
    int count;

    __device__ __forceinline__ bool has(int query) const { return query < count * GROUP; }
    // How many tokens come after the one that a query is of.
    __device__ __forceinline__ int after(int query) const {
        const int left = count - 1 - query / GROUP;
        return LINES == 1 || left < 0 ? 0 : left;
    }
};

// Columns of the pair's queries as the B operand; those past them are zero.
template <int COLUMNS>
using Queries = uint32_t[COLUMNS][CHUNKS][2];

// Two bf16 as f16. Those beyond its range are cut off.
__device__ __forceinline__ uint32_t narrow(uint32_t two) {
    union {
        uint32_t bits;
        float value;
    } low{two << 16}, high{two & 0xffff0000u};
    return pack_f16(fminf(fmaxf(low.value, -F16_MOST), F16_MOST), fminf(fmaxf(high.value, -F16_MOST), F16_MOST));
}

template <int COLUMNS>
__device__ __forceinline__ void load_queries(uint32_t (&q)[COLUMNS][CHUNKS][2], const Step& step, int head,
                                             const Tokens& tokens, int lane) {
    lane = computed_here(lane);
    const int row = lane >> 2, pair = lane & 3;
    constexpr int OF_PAIR = EIGHT ? 4 : 2, OF_HALF = EIGHT ? 2 : 8;
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n) {
        const int query = n * 8 + row;
        const uint16_t* from = step.q + (tokens.first + query / GROUP) * step.q_stride +
                               (head * GROUP + query % GROUP) * HEAD_DIM + pair * OF_PAIR;
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const uint32_t two = tokens.has(query) ? read_fresh(from + i * 16 + k * OF_HALF) : 0;
                q[n][i][k] = EIGHT ? narrow(two) : two;
            }
    }
}

// What one load of K (PIECES of them) holds of its one or two 16-wide tiles of dims, as A operands.
__device__ __forceinline__ void key_tile(uint32_t (&a)[4], const uint32_t (&loaded)[4], int which) {
    if constexpr (EIGHT) {
        widen(a[0], a[2], loaded[2 * which]);
        widen(a[1], a[3], loaded[2 * which + 1]);
    } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) a[k] = loaded[k];
    }
}

// The same of V, where a word has the dims 2 row and 2 row + 1 of two keys: a byte of each key goes together.
__device__ __forceinline__ void value_tile(uint32_t (&a)[4], const uint32_t (&loaded)[4], int which) {
    if constexpr (EIGHT) {
        widen(a[0], a[1], choose_bytes(loaded[2 * which], 0, 0x3120));
        widen(a[2], a[3], choose_bytes(loaded[2 * which + 1], 0, 0x3120));
    } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) a[k] = loaded[k];
    }
}

// Of a tile's keys, as words of V^T hold them, those in [low, high).
__device__ __forceinline__ void kept(uint32_t (&keep)[2], int low, int high, int lane) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        const int key = k * 8 + (lane & 3) * 2;
        keep[k] = (key >= low && key < high ? 0x0000ffffu : 0u) |
                  (key + 1 >= low && key + 1 < high ? 0xffff0000u : 0u);
    }
}

__device__ __forceinline__ void clear_cut(uint32_t (&values)[4], const uint32_t (&keep)[2]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) values[k] &= keep[EIGHT ? k & 1 : k >> 1];
}

// Where a query's result goes.
__device__ __forceinline__ uint16_t* result(const Step& step, const Tokens& tokens, int head, int query) {
    const int64_t where = (tokens.first + query / GROUP) * step.kv_heads + head;
    return step.out + (where * GROUP + query % GROUP) * HEAD_DIM;
}

// A pair's running softmax in one warp, as the fragments of O^T: out[.][i][k] is dim 16 i + row * DIM_OF_ROW
// (+ DIM_OF_LOWER for the upper k) of query 8 n + 2 * pair + (k & 1).
template <int COLUMNS>
struct Running {
    float out[COLUMNS][CHUNKS][4];
    float peak[COLUMNS][2];   // log2 units, equal in all rows
    float total[COLUMNS][2];  // this lane's own keys only

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
            peak[n][0] = peak[n][1] = LOWEST;
            total[n][0] = total[n][1] = 0;
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
                for (int k = 0; k < 4; ++k) out[n][i][k] = 0;
        }
    }

    // Folds in one tile. Keys outside [low, high) of the tile are not part of the sequence: their scores
    // are dropped and their V zeroed, since a stale page may hold anything, NaN included. A token sees none that
    // comes after it.
    __device__ __forceinline__ void fold(uint32_t stage, const Queries<COLUMNS>& q, const Tokens& tokens, float scale,
                                         int low, int high, int lane) {
        float score[2][COLUMNS][4];
        uint32_t loaded[4];
        const uint32_t keys_at = first_piece(stage, lane & 15, lane >> 4);
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k) score[0][n][k] = score[1][n][k] = 0;
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) {
            constexpr int TILES = CHUNKS / PIECES;
            if (i % TILES == 0) load_rows(loaded, piece(keys_at, i / TILES));
            uint32_t keys[4];
            key_tile(keys, loaded, i % TILES);
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) multiply(score[i & 1][n], keys, q[n][i]);
        }
        // Matrices in the order of the A operand: both halves of 16 dims, then of the keys; or, of eight bits,
        // both halves of the keys, then the next 16 dims.
        const int slot = EIGHT ? lane & 15 : (lane & 7) + (lane >> 4) * 8;
        const int side = EIGHT ? lane >> 4 : (lane >> 3) % 2;
        const uint32_t values_at = first_piece(stage + KEYS_BYTES, slot, side);
        // All at once, before the scores are there, where a lane has room for them.
        constexpr bool AHEAD = COLUMNS == NARROW;
        uint32_t values[AHEAD ? PIECES : 1][4];
        if constexpr (AHEAD) {
#pragma unroll
            for (int i = 0; i < PIECES; ++i) load_columns(values[i], piece(values_at, i));
        }
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k) score[0][n][k] += score[1][n][k];
        const bool cut = low > 0 || high < TILE + LINES - 1;
        uint32_t keep[2];
        if (cut) {
            const int rare = computed_here(lane);
            mask(score[0], tokens, low, high, rare);
            kept(keep, low, high, rare);
            if constexpr (AHEAD) {
#pragma unroll
                for (int i = 0; i < PIECES; ++i) clear_cut(values[i], keep);
            }
        }
        uint32_t weights[COLUMNS][2];
        weigh(weights, score[0], scale);
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) {
            constexpr int TILES = CHUNKS / PIECES;
            uint32_t(&loaded)[4] = values[AHEAD ? i / TILES : 0];
            if (!AHEAD && i % TILES == 0) {
                load_columns(loaded, piece(values_at, i / TILES));
                if (cut) clear_cut(loaded, keep);
            }
            uint32_t tile[4];
            value_tile(tile, loaded, i % TILES);
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) multiply(out[n][i], tile, weights[n]);
        }
    }

    __device__ __forceinline__ static void mask(float (&score)[COLUMNS][4], const Tokens& tokens, int low, int high,
                                                int lane) {
        const int row = lane >> 2, pair = lane & 3;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int end = high - tokens.after(n * 8 + pair * 2 + k);
                if (row < low || row >= end) score[n][k] = -INFINITY;
                if (row + 8 < low || row + 8 >= end) score[n][k + 2] = -INFINITY;
            }
    }

    // Scores → weights as the B operand, moving the running maximum first.
    __device__ __forceinline__ void weigh(uint32_t (&weights)[COLUMNS][2], const float (&score)[COLUMNS][4],
                                          float scale) {
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
            float grown[2];
#pragma unroll
            for (int k = 0; k < 2; ++k)
                grown[k] = fmaxf(peak[n][k], rows_max(fmaxf(score[n][k], score[n][k + 2])) * scale);
            if (any_lane(grown[0] > peak[n][0] || grown[1] > peak[n][1])) {
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
            weights[n][0] = turned_weights(weight[0], weight[1]);
            weights[n][1] = turned_weights(weight[2], weight[3]);
        }
    }

    // The whole pair was this warp's: writes the result itself.
    __device__ __forceinline__ void store(const Step& step, const Segment& segment, const Tokens& tokens,
                                          int lane) {
        lane = computed_here(lane);
        const int row = lane >> 2, pair = lane & 3;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
            const float left = step.value_scale / rows_sum(total[n][0]);
            const float right = step.value_scale / rows_sum(total[n][1]);
            const int query = n * 8 + row;
            uint16_t* to = result(step, tokens, segment.head, query);
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i) {
                uint32_t dims[2];  // of 8 rows each, two neighbouring ones of them
#pragma unroll
                for (int k = 0; k < 2; ++k)
                    dims[k] = transpose(pack_bf16(out[n][i][2 * k] * left, out[n][i][2 * k + 1] * right));
                if (tokens.has(query)) {
                    // The words of this lane: dims 4 pair to 4 pair + 3 of eight bits, else 2 pair and 8 + 2 pair.
                    uint32_t* low = reinterpret_cast<uint32_t*>(to + i * 16 + pair * (EIGHT ? 4 : 2));
                    uint32_t* high = low + (EIGHT ? 1 : 4);
                    *low = EIGHT ? choose_bytes(dims[0], dims[1], 0x5410) : dims[0];
                    *high = EIGHT ? choose_bytes(dims[0], dims[1], 0x7632) : dims[1];
                }
            }
        }
    }

    // This lane's share as rows: a part is sums [QUERIES][HEAD_DIM], then (maximum, denominator) [QUERIES].
    __device__ __forceinline__ void lay_out(float* part, int lane) const {
        const int row = lane >> 2, pair = lane & 3;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const float all = rows_sum(total[n][k]);
                const int query = n * 8 + pair * 2 + k;
                if (query >= QUERIES) continue;
                float* to = part + query * HEAD_DIM + row * DIM_OF_ROW;
#pragma unroll
                for (int i = 0; i < CHUNKS; ++i) {
                    to[i * 16] = out[n][i][k];
                    to[i * 16 + DIM_OF_LOWER] = out[n][i][k + 2];
                }
                if (row == 0) {
                    part[QUERIES * HEAD_DIM + query * 2] = peak[n][k];
                    part[QUERIES * HEAD_DIM + query * 2 + 1] = all;
                }
            }
    }
};

}  // namespace baton
