// Attention of one new token per sequence over the paged pool, for compute capability 9.0.
//
// Each warp is a stream of its own: it owns a piece of the line of tiles (shares.h), keeps STAGES tiles
// on their way from memory with the tensor copy engine, and folds each into a running softmax. Nothing
// in the loop waits for another warp. A pair (sequence, KV head) may be shared by several warps. Its first
// owner comes to it last, when the others mostly have left their parts, and puts the parts together in a
// fixed order, so equal inputs give equal bits. It waits for parts still to come: every block must be
// resident, which one block a multiprocessor is, and nobody waits before leaving its own part.
//
// A tile of 16 keys is the M side of m16n8k16 and the pair's query heads the N side: S^T = K Q^T, then
// O^T = V^T P^T. In fragments below, `row = lane / 4` and `pair = lane % 4` (the PTX manual's groupID
// and threadID_in_group): a lane holds result columns 2 * pair and 2 * pair + 1, which are query heads.
//
// Compiled by compiler.py with -DHEAD_DIM -DGROUP -DWARPS -DSTAGES -DOVERHEAD -DLEAST.
#include <stdint.h>

#include "shares.h"

using namespace baton;

constexpr int THREADS = WARPS * 32;
constexpr int COLUMNS = (GROUP + 7) / 8;             // 8-wide tiles of query heads
constexpr int CHUNKS = HEAD_DIM / 16;                // 16-wide tiles of head_dim
constexpr int KEYS_BYTES = TILE * HEAD_DIM * 2;
constexpr int STAGE_BYTES = 2 * KEYS_BYTES;          // K, then V
constexpr int LANE_DIMS = HEAD_DIM / 32;
constexpr unsigned ALL = 0xffffffffu;
constexpr uint64_t READ_ONCE = 0x12F0000000000000;   // L2 policy: evict first
constexpr uint32_t ABSENT = 0xffffffffu;             // what a part's words hold between launches: a NaN never stored
constexpr int MERGED = GROUP > 8 ? 1 : 16 / GROUP;   // parts read at a time

struct alignas(64) TensorMap {
    uint8_t bytes[128];
};

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

__device__ __forceinline__ void barrier_init(uint32_t barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    do {
        asm volatile(
            "{\n\t.reg .pred p;\n\t"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
            "selp.u32 %0, 1, 0, p;\n\t}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!done);
}

// One tile's K and V: `plane` counts (page, head, layer, K or V), `slot` is the tile's first in its page.
__device__ __forceinline__ void copy_tile(const TensorMap& pool, uint32_t stage, uint32_t barrier, int slot, int plane) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%2, %3, %2, %4}], [%5], %6;" ::"r"(stage), "l"(&pool), "r"(0), "r"(slot), "r"(plane),
        "r"(barrier), "l"(READ_ONCE)
        : "memory");
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

// A part's words say themselves whether they are there: no fence, no counter.
__device__ __forceinline__ void store_part(float* to, float x) {
    const uint32_t bits = __float_as_uint(x) == ABSENT ? 0x7fffffffu : __float_as_uint(x);
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(bits) : "memory");
}

template <int N>
struct Words {
    uint32_t x[N];

    __device__ __forceinline__ void read(const float* from) {
        if constexpr (N == 4)
            asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                         : "l"(from)
                         : "memory");
        else
            asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "l"(from) : "memory");
    }
    __device__ __forceinline__ static void clear(float* at) {
        if constexpr (N == 4)
            asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %1, %1, %1};" ::"l"(at), "r"(ABSENT) : "memory");
        else
            asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %1};" ::"l"(at), "r"(ABSENT) : "memory");
    }
    __device__ __forceinline__ bool absent() const {
        bool any = false;
#pragma unroll
        for (int i = 0; i < N; ++i) any |= x[i] == ABSENT;
        return any;
    }
    __device__ __forceinline__ float operator[](int i) const { return __uint_as_float(x[i]); }
};

// The batch as the prologue leaves it in shared memory.
struct Batch {
    int* prefix;   // [batch + 1]
    int* lengths;  // [batch]
    int* rows;     // [batch]
};

// Keeps the warp's ring full. Page-table entries are read one run (up to 32 tiles) ahead of their use.
struct Feed {
    const Step& step;
    const Batch& batch;
    const TensorMap& pool;
    Walk walk;
    Segment segment;
    int tile;                        // next of `segment` to put into a run
    int page, at, count, head, base; // the run being copied; `page` is per lane
    int next_page, next_count, next_head, next_base;
    int lane;

    __device__ __forceinline__ Feed(const Step& s, const Batch& b, const TensorMap& p, const Walk& w, int lane_)
        : step(s), batch(b), pool(p), walk(w), tile(0), at(0), count(0), lane(lane_) {
        segment.end = 0;
        read_ahead();
    }

    __device__ __forceinline__ void read_ahead() {
        next_count = 0;
        if (tile >= segment.end) {
            if (!walk.next(segment)) return;
            tile = segment.first;
        }
        next_count = least_of(32, segment.end - tile);
        next_head = segment.head;
        next_base = first_tile(batch.lengths[segment.seq], step.window) + tile;
        tile += next_count;
        if (lane < next_count) {
            const int64_t row = batch.rows[segment.seq];
            next_page = __ldg(step.table + row * step.table_stride + (next_base + lane) / step.page_tiles);
        }
    }

    __device__ __forceinline__ void copy_next(uint32_t stage, uint32_t barrier) {
        if (at == count) {
            if (next_count == 0) return;
            page = next_page;
            count = next_count;
            head = next_head;
            base = next_base;
            at = 0;
            read_ahead();
        }
        const int found = __shfl_sync(ALL, page, at);
        if (lane == 0) {
            const int slot = step.page_tiles == 1 ? 0 : (base + at) % step.page_tiles * TILE;
            const int plane = ((found * step.kv_heads + head) * step.layers + step.layer) * 2;
            barrier_expect(barrier, STAGE_BYTES);
            copy_tile(pool, stage, barrier, slot, plane);
        }
        ++at;
    }
};

using Queries = uint32_t[COLUMNS][CHUNKS][2];

// The pair's query heads as the B operand; columns past GROUP are zero. Not __ldg: the compiler may move that
// ahead of the wait for the kernel that writes q.
__device__ __forceinline__ void load_queries(Queries& q, const Step& step, const Segment& segment, int lane) {
    const int row = lane >> 2, pair = lane & 3;
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n) {
        const int query = n * 8 + row;
        const uint16_t* from = step.q + static_cast<int64_t>(segment.seq) * step.q_stride +
                               (segment.head * GROUP + query) * HEAD_DIM + pair * 2;
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
            for (int k = 0; k < 2; ++k)
                q[n][i][k] = query < GROUP ? __ldcg(reinterpret_cast<const uint32_t*>(from + i * 16 + k * 8)) : 0;
    }
}

// A pair's running softmax in one warp.
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
            load_columns(values[i], piece(stage + KEYS_BYTES, (lane & 7) + ((lane >> 4) << 3), 2 * i + ((lane >> 3) & 1)));
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
            keep[k] = (key >= low && key < high ? 0x0000ffffu : 0u) | (key + 1 >= low && key + 1 < high ? 0xffff0000u : 0u);
        }
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
            for (int k = 0; k < 4; ++k) values[i][k] &= keep[k >> 1];
    }

    // Scores → bf16 weights as the B operand, moving the running maximum first.
    __device__ __forceinline__ void weigh(uint32_t (&weights)[COLUMNS][2], const float (&score)[COLUMNS][4], float scale) {
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
            float grown[2];
#pragma unroll
            for (int k = 0; k < 2; ++k) grown[k] = fmaxf(peak[n][k], rows_max(fmaxf(score[n][k], score[n][k + 2])) * scale);
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
            uint16_t* to = step.out + ((static_cast<int64_t>(segment.seq) * step.kv_heads + segment.head) * GROUP + query) * HEAD_DIM;
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const uint32_t dims = turn(out[n][i][2 * k] * left, out[n][i][2 * k + 1] * right);
                    if (query < GROUP) *reinterpret_cast<uint32_t*>(to + i * 16 + k * 8 + pair * 2) = dims;
                }
        }
    }

    // Hands (query head, dim or -1 for maximum and denominator, value) of this lane's share to `put`.
    template <class Put>
    __device__ __forceinline__ void spread(int lane, Put put) {
        const int row = lane >> 2, pair = lane & 3;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const float all = rows_sum(total[n][k]);
                const int query = n * 8 + pair * 2 + k;
                if (query >= GROUP) continue;
                if (row == 0) put.peak(query, peak[n][k], all);
#pragma unroll
                for (int i = 0; i < CHUNKS; ++i) {
                    put.sum(query, i * 16 + row, out[n][i][k]);
                    put.sum(query, i * 16 + row + 8, out[n][i][k + 2]);
                }
            }
    }
};

// Leaves a part for the pair's first owner.
struct Leave {
    float *sums, *peaks;

    __device__ __forceinline__ Leave(const Step& step, int owner)
        : sums(step.sums + static_cast<int64_t>(owner) * GROUP * HEAD_DIM), peaks(step.peaks + owner * GROUP * 2) {}
    __device__ __forceinline__ void peak(int query, float peak, float total) {
        store_part(peaks + query * 2, peak);
        store_part(peaks + query * 2 + 1, total);
    }
    __device__ __forceinline__ void sum(int query, int dim, float x) { store_part(sums + query * HEAD_DIM + dim, x); }
};

// Lays the first owner's own part out by rows, in its ring, which is empty at the end of its stream.
struct Keep {
    float *sums, *peaks;

    __device__ __forceinline__ void peak(int query, float peak, float total) {
        peaks[query * 2] = peak;
        peaks[query * 2 + 1] = total;
    }
    __device__ __forceinline__ void sum(int query, int dim, float x) { sums[query * HEAD_DIM + dim] = x; }
};

// A shared pair's parts, in the order of its owners, into the result; a lane holds LANE_DIMS dims of each head.
struct Merge {
    float peak[GROUP], total[GROUP], out[GROUP][LANE_DIMS];

    __device__ __forceinline__ void begin(const Keep& own, int lane) {
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            peak[g] = own.peaks[g * 2];
            total[g] = own.peaks[g * 2 + 1];
#pragma unroll
            for (int d = 0; d < LANE_DIMS; ++d) out[g][d] = own.sums[g * HEAD_DIM + lane * LANE_DIMS + d];
        }
    }

    // Up to MERGED parts, those that warps [first, end) leave, as soon as they are there; then forgets them.
    __device__ __forceinline__ void add(const Step& step, int first, int end, int lane) {
        float* sums = step.sums + static_cast<int64_t>(first) * GROUP * HEAD_DIM + lane * LANE_DIMS;
        float* peaks = step.peaks + first * GROUP * 2;
        Words<LANE_DIMS> dims[MERGED * GROUP];
        Words<2> weight[MERGED * GROUP];
        bool absent;
        do {
            absent = false;
#pragma unroll
            for (int i = 0; i < MERGED * GROUP; ++i) {
                if (first + i / GROUP >= end) continue;
                weight[i].read(peaks + i * 2);
                dims[i].read(sums + i * HEAD_DIM);
            }
#pragma unroll
            for (int i = 0; i < MERGED * GROUP; ++i)
                if (first + i / GROUP < end) absent |= weight[i].absent() || dims[i].absent();
        } while (__any_sync(ALL, absent));
#pragma unroll
        for (int i = 0; i < MERGED * GROUP; ++i) {
            if (first + i / GROUP >= end) continue;
            Words<LANE_DIMS>::clear(sums + i * HEAD_DIM);
            if (lane == 0) Words<2>::clear(peaks + i * 2);
            const int g = i % GROUP;
            const float grown = fmaxf(peak[g], weight[i][0]);
            const float mine = exp2_fast(peak[g] - grown), theirs = exp2_fast(weight[i][0] - grown);
            peak[g] = grown;
            total[g] = total[g] * mine + weight[i][1] * theirs;
#pragma unroll
            for (int d = 0; d < LANE_DIMS; ++d) out[g][d] = out[g][d] * mine + dims[i][d] * theirs;
        }
    }

    __device__ __forceinline__ void store(const Step& step, const Segment& segment, int lane) const {
        uint16_t* to = step.out + (static_cast<int64_t>(segment.seq) * step.kv_heads + segment.head) * GROUP * HEAD_DIM + lane * LANE_DIMS;
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            const float scale = 1 / total[g];
#pragma unroll
            for (int d = 0; d < LANE_DIMS; d += 2)
                *reinterpret_cast<uint32_t*>(to + g * HEAD_DIM + d) = pack(out[g][d] * scale, out[g][d + 1] * scale);
        }
    }
};

// Prefix sums of the sequences' costs, their lengths and rows, into shared memory. All threads.
__device__ __forceinline__ void read_batch(const Step& step, const Batch& batch, int* warp_sums) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int before = 0;
    for (int base = 0; base < step.batch; base += THREADS) {
        const int seq = base + threadIdx.x;
        const bool inside = seq < step.batch;
        const int length = inside ? __ldg(step.lengths + seq) : 0;
        const int row = inside ? __ldg(step.rows + seq) : 0;
        const int cost = pair_cost(tile_count(length, step.window), OVERHEAD);
        int sum = cost;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            const int other = __shfl_up_sync(ALL, sum, d);
            if (lane >= d) sum += other;
        }
        if (lane == 31) warp_sums[warp] = sum;
        __syncthreads();
        int all = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            if (w == warp) sum += all;
            all += warp_sums[w];
        }
        if (inside) {
            batch.prefix[seq] = before + sum - cost;
            batch.lengths[seq] = length;
            batch.rows[seq] = row;
        }
        before += all;
        __syncthreads();
    }
    if (threadIdx.x == 0) batch.prefix[step.batch] = before;
    __syncthreads();
}

// Rows of empty sequences are read by nobody, but NaN must not sit there.
__device__ __forceinline__ void clear_empty(const Step& step, const Batch& batch) {
    const int words = step.kv_heads * GROUP * HEAD_DIM / 2;
    for (int seq = blockIdx.x; seq < step.batch; seq += gridDim.x) {
        if (batch.lengths[seq] > 0) continue;
        uint32_t* to = reinterpret_cast<uint32_t*>(step.out) + static_cast<int64_t>(seq) * words;
        for (int i = threadIdx.x; i < words; i += THREADS) to[i] = 0;
    }
}

// One warp's whole stream, the first tiles of which `feed` is ready to copy.
__device__ __forceinline__ void stream(const Step& step, const Batch& batch, const Division& division, Walk walk, Feed& feed,
                                       int owner, uint8_t* ring, uint32_t barriers, int lane) {
    const uint32_t stages = shared_address(ring);
#pragma unroll
    for (int i = 0; i < STAGES; ++i) feed.copy_next(stages + i * STAGE_BYTES, barriers + i * 8);
    Segment segment, coming;
    Queries q, coming_q;
    bool more = walk.next(coming);
    if (more) load_queries(coming_q, step, coming, lane);
    int stage = 0;
    uint32_t parity = 0;
    Running running;
    while (more) {
        segment = coming;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i) q[n][i][0] = coming_q[n][i][0], q[n][i][1] = coming_q[n][i][1];
        more = walk.next(coming);
        if (more) load_queries(coming_q, step, coming, lane);
        const int length = batch.lengths[segment.seq];
        const int origin = first_tile(length, step.window) * TILE;
        const int oldest = step.window > 0 ? length - step.window : 0;
        running.clear();
        for (int tile = segment.first; tile < segment.end; ++tile) {
            const int begin = origin + tile * TILE;
            const uint32_t here = stages + stage * STAGE_BYTES, barrier = barriers + stage * 8;
            barrier_wait(barrier, parity);
            running.fold(here, q, step.scale, oldest - begin, length - begin, lane);
            __syncwarp();
            feed.copy_next(here, barrier);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        if (segment.first > 0) {
            running.spread(lane, Leave(step, owner));
        } else if (segment.end == segment.tiles) {
            running.store(step, segment, lane);
        } else {  // always a stream's last segment
            const Keep own{reinterpret_cast<float*>(ring), reinterpret_cast<float*>(ring) + GROUP * HEAD_DIM};
            running.spread(lane, own);
            __syncwarp();
            const Owners owners(division, walk, segment);
            const int end = owners.first + owners.count;
            Merge merge;
            merge.begin(own, lane);
            for (int part = owner + 1; part < end; part += MERGED) merge.add(step, part, end, lane);
            merge.store(step, segment, lane);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode(const __grid_constant__ TensorMap pool, const Step step) {
    // Every block is resident once all have come here, so the next kernel may take what room is left.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    extern __shared__ uint8_t memory[];
    __shared__ int warp_sums[WARPS];
    // The swizzle counts rows from a multiple of 1024 bytes.
    uint8_t* rings = memory + (-shared_address(memory) & 1023u);
    uint8_t* after = rings + WARPS * STAGES * STAGE_BYTES;
    const uint32_t barriers = shared_address(after);
    Batch batch;
    batch.prefix = reinterpret_cast<int*>(after + WARPS * STAGES * 8);
    batch.lengths = batch.prefix + step.batch + 1;
    batch.rows = batch.lengths + step.batch;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (threadIdx.x < WARPS * STAGES) barrier_init(barriers + threadIdx.x * 8);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    if (threadIdx.x == 0) asm volatile("prefetch.tensormap [%0];" ::"l"(&pool) : "memory");
    // Lengths, rows and table are written before the step's first kernel: they may be read before the
    // kernel that stored this layer's K and V has ended. Everything else may not.
    read_batch(step, batch, warp_sums);
    const int total = batch.prefix[step.batch] * step.kv_heads;
    const Division division(total, WARPS * gridDim.x, LEAST);
    // Neighbouring pieces go to different multiprocessors, so that few pieces still use all of them.
    const int owner = warp * gridDim.x + blockIdx.x;
    if (owner < division.active && total > 0) {
        const Walk walk(batch.prefix, step.batch, step.kv_heads, OVERHEAD, division.begin(owner), division.count(owner));
        Feed feed(step, batch, pool, walk, lane);
        asm volatile("griddepcontrol.wait;" ::: "memory");
        const int first = warp * STAGES;
        stream(step, batch, division, walk, feed, owner, rings + first * STAGE_BYTES, barriers + first * 8, lane);
    }
    asm volatile("griddepcontrol.wait;" ::: "memory");
    clear_empty(step, batch);
}
