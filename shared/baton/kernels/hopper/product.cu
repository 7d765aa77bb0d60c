// Products of few rows: out[token][row] = x[token] . weight[row] (+ bias[row]), bf16 in and out, float32 inside.
//
// A decode step's matrices are read once and hardly used, so what counts is that every multiprocessor keeps
// reading weights from its first moment to its last. Hence three things. The work is one line of (tile of weight
// rows, step along the depth), cut into equal runs for the clusters. Where a tile is begun by one cluster and ended by
// others, the first takes in their float32 parts; where every tile is cut into the same number of pieces, each of its
// clusters takes in a share of the tokens from all others. Always in the same order: equal inputs give equal bits.
// The blocks of a cluster hold different rows and share x: each copies its slice of x to all of them. And weights do
// not depend on the kernel before: a deep ring of them is filled before that has ended. x comes from the L2 and needs
// a ring of few stages.
//
// Weight rows are the matrix units' M, tokens their N. Compiled for one TOKENS (tokens, padded), ROWS (weight rows
// a block), CLUSTER, STAGES (of weights) and X_STAGES; `multiply` (in "multiply.h") is written for TOKENS.
#include "chip.h"

namespace baton {

constexpr int DEPTH = 64;  // of a stage: 128 bytes of bf16, one row of the swizzle
constexpr int GROUPS = 2;  // consumer warpgroups
constexpr int CONSUMERS = GROUPS * 128;
constexpr int SLABS = ROWS / GROUPS / 64;  // of 64 rows, a warpgroup
constexpr int SUMS = TOKENS / 2;           // float32 sums of a slab in one thread
constexpr int WEIGHT_BYTES = ROWS * DEPTH * 2;
constexpr int X_BYTES = TOKENS * DEPTH * 2;
constexpr int SLICE = TOKENS / CLUSTER;  // tokens that one block copies for its cluster
constexpr int LEAST = 2;                 // steps below which a piece of a tile is left to its neighbour
constexpr int MOST_SHARES = 16;          // pieces of a tile that are shared out
static_assert(TOKENS % (8 * CLUSTER) == 0 && TOKENS <= 256 && ROWS % 128 == 0 && ROWS <= 256, "unfit tile");

struct Product {
    uint16_t* out;
    const uint16_t* bias;  // or null
    float* parts;          // [blocks][SLABS * SUMS / 4][CONSUMERS] float4
    uint32_t* left;        // [blocks][MOST_SHARES]: 1 while a block's part waits for that reader
    int tokens, rows, steps, tiles, stride;
    int shares;  // pieces of every tile, if each cluster has exactly one piece; else 0
};

#include "multiply.h"

__device__ __forceinline__ void consumers_meet() { asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory"); }

// Where cluster `c`'s run of the line begins. Pieces shorter than LEAST fall to the neighbour, unless every cluster
// must have one.
__device__ __forceinline__ int run_begin(const Product& p, int c, int clusters) {
    const int at = static_cast<int>(static_cast<int64_t>(p.tiles) * p.steps * c / clusters);
    const int piece = at % p.steps;
    if (p.shares > 1) return at;
    if (piece < LEAST) return at - piece;
    return p.steps - piece < LEAST ? at + p.steps - piece : at;
}

struct Place {
    int cluster, clusters, rank, begin, end;

    __device__ __forceinline__ explicit Place(const Product& p)
        : cluster(blockIdx.x / CLUSTER), clusters(gridDim.x / CLUSTER), rank(blockIdx.x % CLUSTER) {
        begin = run_begin(p, cluster, clusters), end = run_begin(p, cluster + 1, clusters);
    }
};

// Stages in shared memory with a barrier each for "full" and for "empty".
template <int COUNT, int BYTES>
struct Ring {
    uint32_t stages, full, empty;  // shared addresses

    __device__ __forceinline__ Ring(uint32_t stages_, uint32_t barriers)
        : stages(stages_), full(barriers), empty(barriers + COUNT * 8) {}
    __device__ __forceinline__ uint32_t at(int stage) const { return stages + stage * BYTES; }
};
using WeightRing = Ring<STAGES, WEIGHT_BYTES>;
using XRing = Ring<X_STAGES, X_BYTES>;

// A place in a ring that goes round.
template <int COUNT>
struct Turn {
    int stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == COUNT) stage = 0, parity ^= 1;
    }
};

// One thread: copies the run's weights into their ring, ahead of the kernel before.
__device__ __forceinline__ void produce_weights(const TensorMap& weight, const Product& p, const Place& place,
                                                const WeightRing& ring) {
    int step = place.begin % p.steps, row = (place.begin / p.steps * CLUSTER + place.rank) * ROWS;
    Turn<STAGES> turn;
    for (int i = 0; i < place.end - place.begin; ++i, turn.advance()) {
        if (i >= STAGES) barrier_wait(ring.empty + turn.stage * 8, turn.parity ^ 1);
        const uint32_t barrier = ring.full + turn.stage * 8;
        barrier_expect(barrier, WEIGHT_BYTES);
        copy(weight, ring.at(turn.stage), barrier, step * DEPTH, row, ONCE);
        if (++step == p.steps) step = 0, row += CLUSTER * ROWS;
    }
}

// Another: x, or this block's slice of it for every block of the cluster.
__device__ __forceinline__ void produce_x(const TensorMap& x, const Product& p, const Place& place, const XRing& ring) {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    int step = place.begin % p.steps;
    Turn<X_STAGES> turn;
    for (int i = 0; i < place.end - place.begin; ++i, turn.advance()) {
        if (i >= X_STAGES) barrier_wait(ring.empty + turn.stage * 8, turn.parity ^ 1);
        const uint32_t barrier = ring.full + turn.stage * 8;
        barrier_expect(barrier, X_BYTES);
        if constexpr (CLUSTER == 1)
            copy(x, ring.at(turn.stage), barrier, step * DEPTH, 0, AGAIN);
        else
            copy_to_all(x, ring.at(turn.stage) + place.rank * SLICE * DEPTH * 2, barrier, step * DEPTH,
                        place.rank * SLICE, AGAIN);
        if (++step == p.steps) step = 0;
    }
}

using Sums = float[SLABS][SUMS];

// Bars the compiler from touching sums that the matrix units are still writing.
__device__ __forceinline__ void settle(Sums& sums) {
#pragma unroll
    for (int s = 0; s < SLABS; ++s)
#pragma unroll
        for (int i = 0; i < SUMS; ++i) asm volatile("" : "+f"(sums[s][i])::"memory");
}

struct Stream {
    const WeightRing& weights;
    const XRing& xs;
    Turn<STAGES> weight;
    Turn<X_STAGES> x;

    __device__ __forceinline__ void release(int weight_stage, int x_stage) const {
        const int lane = threadIdx.x & 31;
        if (lane == 0) barrier_arrive_here(weights.empty + weight_stage * 8);
        if (lane < CLUSTER) barrier_arrive(xs.empty + x_stage * 8, lane);
    }
};

// One warpgroup: the sums of `steps` steps of one tile.
__device__ __forceinline__ void consume(Stream& stream, int steps, int group, Sums& sums) {
    int weight_before = 0, x_before = 0;
    for (int i = 0; i < steps; ++i) {
        barrier_wait(stream.weights.full + stream.weight.stage * 8, stream.weight.parity);
        barrier_wait(stream.xs.full + stream.x.stage * 8, stream.x.parity);
        settle(sums);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        const uint64_t a = matrix(stream.weights.at(stream.weight.stage) + group * SLABS * 64 * DEPTH * 2);
        const uint64_t b = matrix(stream.xs.at(stream.x.stage));
#pragma unroll
        for (int k = 0; k < DEPTH / 16; ++k)
#pragma unroll
            for (int s = 0; s < SLABS; ++s)
                multiply(sums[s], a + k * 2 + s * (64 * DEPTH * 2 >> 4), b + k * 2, i > 0 || k > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        if (i > 0) {
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            stream.release(weight_before, x_before);
        }
        weight_before = stream.weight.stage, x_before = stream.x.stage;
        stream.weight.advance();
        stream.x.advance();
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    settle(sums);
    stream.release(weight_before, x_before);
}

__device__ __forceinline__ float4* part(const Product& p, int block) {
    return reinterpret_cast<float4*>(p.parts) + static_cast<int64_t>(block) * (SLABS * SUMS / 4) * CONSUMERS;
}

// Goes round the readers of a tile's pieces, eight tokens at a time; with one reader all tokens are its own.
struct Sharing {
    int shares, own, now = 0;

    __device__ __forceinline__ bool mine() {
        const bool is = now == own;
        if (++now == shares) now = 0;
        return is;
    }
};

__device__ __forceinline__ void put(const Product& p, const Sums& sums, int s, int i) {
    __stcg(part(p, blockIdx.x) + threadIdx.x + (s * SUMS / 4 + i) * CONSUMERS,
           make_float4(sums[s][4 * i], sums[s][4 * i + 1], sums[s][4 * i + 2], sums[s][4 * i + 3]));
}

__device__ __forceinline__ void add(const Product& p, Sums& sums, int block, int s, int i) {
    const float4 more = __ldcg(part(p, block) + threadIdx.x + (s * SUMS / 4 + i) * CONSUMERS);
    sums[s][4 * i] += more.x, sums[s][4 * i + 1] += more.y;
    sums[s][4 * i + 2] += more.z, sums[s][4 * i + 3] += more.w;
}

__device__ __forceinline__ void raise(uint32_t* flag) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(1) : "memory");
}

__device__ __forceinline__ void await(uint32_t* flag) {
    uint32_t there;
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(flag) : "memory");
    while (there == 0);
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(0) : "memory");
}

// The sums of a tile that another cluster began: left where that one finds them.
__device__ __forceinline__ void leave(const Product& p, const Sums& sums) {
#pragma unroll
    for (int s = 0; s < SLABS; ++s)
#pragma unroll
        for (int i = 0; i < SUMS / 4; ++i) put(p, sums, s, i);
    __threadfence();
    consumers_meet();
    if (threadIdx.x == 0) raise(p.left + blockIdx.x * MOST_SHARES);
}

// A piece of a tile that is cut into p.shares: the other clusters' tokens are left to them, and theirs of this one's
// tokens taken in.
__device__ __forceinline__ void share(const Product& p, const Place& place, Sums& sums) {
    const int own = place.cluster % p.shares, first = place.cluster - own;
    Sharing sharing{p.shares, own};
#pragma unroll
    for (int i = 0; i < SUMS / 4; ++i)
        if (!sharing.mine())
#pragma unroll
            for (int s = 0; s < SLABS; ++s) put(p, sums, s, i);
    __threadfence();
    consumers_meet();
    const int other = threadIdx.x;
    if (other < p.shares && other != own) {
        raise(p.left + blockIdx.x * MOST_SHARES + other);
        await(p.left + ((first + other) * CLUSTER + place.rank) * MOST_SHARES + own);
    }
    consumers_meet();
    for (int c = 0; c < p.shares; ++c) {
        if (c == own) continue;
        Sharing again{p.shares, own};
#pragma unroll
        for (int i = 0; i < SUMS / 4; ++i)
            if (again.mine())
#pragma unroll
                for (int s = 0; s < SLABS; ++s) add(p, sums, (first + c) * CLUSTER + place.rank, s, i);
    }
}

// Adds what the clusters after this one left of the tile that ends at `end`, in their order.
__device__ __forceinline__ void take(const Product& p, const Place& place, int end, Sums& sums) {
    // One thread for each of them waits until its part is there.
    const int mine = place.cluster + 1 + threadIdx.x;
    if (mine < place.clusters) {
        const int begin = run_begin(p, mine, place.clusters);
        if (begin < end && begin < run_begin(p, mine + 1, place.clusters))
            await(p.left + (mine * CLUSTER + place.rank) * MOST_SHARES);
    }
    consumers_meet();
    int begin = place.end;
    for (int c = place.cluster + 1; begin < end; ++c) {
        const int next = run_begin(p, c + 1, place.clusters);
        if (next == begin) continue;
        begin = next;
#pragma unroll
        for (int s = 0; s < SLABS; ++s)
#pragma unroll
            for (int i = 0; i < SUMS / 4; ++i) add(p, sums, c * CLUSTER + place.rank, s, i);
    }
}

__device__ __forceinline__ uint32_t turned(float low, float high) {
    uint32_t packed, out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(packed));
    return out;
}

__device__ __forceinline__ float widened(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }

// A warpgroup's rows of a finished tile, or its share of their tokens, eight by sixteen rows at a time a warp.
__device__ __forceinline__ void store(const Product& p, int first_row, Sharing sharing, const Sums& sums) {
    const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
#pragma unroll
    for (int s = 0; s < SLABS; ++s) {
        const int row = first_row + s * 64 + warp * 16;
        float low = 0, high = 0;
        if (p.bias != nullptr && row + 15 < p.rows)
            low = widened(p.bias[row + lane / 4]), high = widened(p.bias[row + lane / 4 + 8]);
        uint16_t* to = p.out + static_cast<int64_t>(lane / 4) * p.stride + row + lane % 4 * 2;
        sharing.now = 0;
#pragma unroll
        for (int j = 0; j < TOKENS / 8; ++j) {
            const uint32_t upper = turned(sums[s][4 * j] + low, sums[s][4 * j + 1] + low);
            const uint32_t lower = turned(sums[s][4 * j + 2] + high, sums[s][4 * j + 3] + high);
            if (sharing.mine() && j * 8 + lane / 4 < p.tokens && row + 15 < p.rows) {
                *reinterpret_cast<uint32_t*>(to) = upper;
                *reinterpret_cast<uint32_t*>(to + 8) = lower;
            }
            to += 8 * static_cast<int64_t>(p.stride);
        }
    }
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 64, 1)
    product(const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap x, const Product p) {
    // All blocks that wait for each other are resident, so the next kernel may take what room is left.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    extern __shared__ uint8_t memory[];
    // The swizzle counts rows from a multiple of 1024 bytes; blocks of a cluster have the same addresses.
    const uint32_t stages = (shared_address(memory) + 1023) & ~1023u, xs = stages + STAGES * WEIGHT_BYTES;
    const uint32_t barriers = xs + X_STAGES * X_BYTES;
    const WeightRing weight_ring(stages, barriers);
    const XRing x_ring(xs, barriers + STAGES * 16);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(weight_ring.full + i * 8, 1);
            barrier_init(weight_ring.empty + i * 8, GROUPS * 4);
        }
        for (int i = 0; i < X_STAGES; ++i) {
            barrier_init(x_ring.full + i * 8, 1);
            barrier_init(x_ring.empty + i * 8, CLUSTER * GROUPS * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_meets();
    const Place place(p);
    if (threadIdx.x == CONSUMERS) {
        produce_weights(weight, p, place, weight_ring);
    } else if (threadIdx.x == CONSUMERS + 32) {
        produce_x(x, p, place, x_ring);
    } else if (threadIdx.x < CONSUMERS) {
        asm volatile("griddepcontrol.wait;" ::: "memory");  // what the kernel before reads may be written now
        const int group = threadIdx.x / 128;
        Stream stream{weight_ring, x_ring, {}, {}};
        Sums sums;
        for (int at = place.begin; at < place.end;) {
            const int tile = at / p.steps, first = at % p.steps;
            const int rest = place.end - at, steps = p.steps - first < rest ? p.steps - first : rest;
            const int row = (tile * CLUSTER + place.rank) * ROWS + group * SLABS * 64;
            consume(stream, steps, group, sums);
            at += steps;
            if (p.shares > 1) {
                share(p, place, sums);
                store(p, row, Sharing{p.shares, place.cluster % p.shares}, sums);
            } else if (first > 0) {
                leave(p, sums);
            } else {
                if (steps < p.steps) take(p, place, (tile + 1) * p.steps, sums);
                store(p, row, Sharing{1, 0}, sums);
            }
        }
    }
    __syncwarp();
    cluster_meets();  // no block ends while another may still write into it
}

}  // namespace baton
