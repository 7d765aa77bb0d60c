// Products of few rows: out[token][row] = x[token] . weight[row] (+ bias[row]), bf16 in and out, float32 inside.
//
// A decode step's matrices are read once and hardly used, so what counts is that every multiprocessor keeps
// reading weights from its first moment to its last. Hence three things. The work is one line of (tile of weight
// rows, step along the depth), cut into equal runs for the clusters: a tile may be begun by one cluster and ended
// by others, whose float32 parts the first one takes in, in order (equal inputs give equal bits). The blocks of a
// cluster hold different rows and share x: each copies its slice of x to all of them, so x costs little of the
// L2's bandwidth. And weights do not depend on the kernel before: a ring of them is filled before that has ended.
//
// Weight rows are the matrix units' M, tokens their N. Compiled for one TOKENS (tokens, padded), ROWS (weight rows
// a block), CLUSTER and STAGES; `multiply` (in "multiply.h") is written by the compiler's caller for TOKENS.
#include <cstdint>

namespace baton {

constexpr int DEPTH = 64;  // of a stage: 128 bytes of bf16, one row of the swizzle
constexpr int GROUPS = 2;  // consumer warpgroups
constexpr int CONSUMERS = GROUPS * 128;
constexpr int SLABS = ROWS / GROUPS / 64;  // of 64 rows, a warpgroup
constexpr int SUMS = TOKENS / 2;           // float32 sums of a slab in one thread
constexpr int WEIGHT_BYTES = ROWS * DEPTH * 2;
constexpr int STAGE_BYTES = WEIGHT_BYTES + TOKENS * DEPTH * 2;
constexpr int SLICE = TOKENS / CLUSTER;  // tokens that one block copies for its cluster
constexpr int LEAST = 2;                 // steps below which a piece of a tile is left to its neighbour
static_assert(TOKENS % (8 * CLUSTER) == 0 && TOKENS <= 256 && ROWS % 128 == 0 && ROWS <= 256, "unfit tile");

struct alignas(64) TensorMap {
    uint64_t words[16];
};

struct Product {
    uint16_t* out;
    const uint16_t* bias;  // or null
    float* parts;          // [blocks][SLABS * SUMS / 4][CONSUMERS] float4
    uint32_t* left;        // [blocks]: 1 while a block's part waits for its reader
    int tokens, rows, steps, tiles, stride;
};

#include "multiply.h"

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

// One arrival at the barrier of that place in block `rank` of the cluster.
__device__ __forceinline__ void barrier_arrive(uint32_t barrier, int rank) {
    if constexpr (CLUSTER == 1) {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
    } else {
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

__device__ __forceinline__ void consumers_meet() { asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory"); }

__device__ __forceinline__ void cluster_meets() {
    if constexpr (CLUSTER == 1) {
        __syncthreads();
    } else {
        asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    }
}

// Where cluster `c`'s run of the line begins. Pieces shorter than LEAST fall to the neighbour.
__device__ __forceinline__ int run_begin(const Product& p, int c, int clusters) {
    const int at = static_cast<int>(static_cast<int64_t>(p.tiles) * p.steps * c / clusters);
    const int piece = at % p.steps;
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

struct Ring {
    uint32_t stages, full, empty;  // shared addresses

    __device__ __forceinline__ uint32_t weights(int stage) const { return stages + stage * STAGE_BYTES; }
    __device__ __forceinline__ uint32_t x(int stage) const { return weights(stage) + WEIGHT_BYTES; }
};

// What one thread copies next, and into which stage.
struct Feed {
    const TensorMap &weight, &x;
    const Ring& ring;
    int rank, steps, step, row;

    __device__ __forceinline__ void copy_weight(int stage) {
        const uint32_t barrier = ring.full + stage * 8;
        barrier_expect(barrier, STAGE_BYTES);
        copy(weight, ring.weights(stage), barrier, step * DEPTH, row, ONCE);
    }
    __device__ __forceinline__ void copy_x(int stage) const {
        const uint32_t to = ring.x(stage) + rank * SLICE * DEPTH * 2, barrier = ring.full + stage * 8;
        if constexpr (CLUSTER == 1)
            copy(x, to, barrier, step * DEPTH, 0, AGAIN);
        else
            copy_to_all(x, to, barrier, step * DEPTH, rank * SLICE, AGAIN);
    }
    __device__ __forceinline__ void advance() {
        if (++step == steps) step = 0, row += CLUSTER * ROWS;
    }
};

// One thread: copies the run's weights and x into the ring, the first weights ahead of the kernel before.
__device__ __forceinline__ void produce(const TensorMap& weight, const TensorMap& x, const Product& p,
                                        const Place& place, const Ring& ring) {
    const int count = place.end - place.begin, tile = place.begin / p.steps;
    Feed feed{weight, x, ring, place.rank, p.steps, place.begin % p.steps, (tile * CLUSTER + place.rank) * ROWS};
    const int first = count < STAGES ? count : STAGES;
    Feed early = feed;
    for (int i = 0; i < first; ++i, early.advance()) early.copy_weight(i);
    asm volatile("griddepcontrol.wait;" ::: "memory");
    for (int i = 0; i < first; ++i, feed.advance()) feed.copy_x(i);
    int stage = 0;
    uint32_t parity = 0;
    for (int i = STAGES; i < count; ++i, feed.advance()) {
        barrier_wait(ring.empty + stage * 8, parity);
        feed.copy_weight(stage);
        feed.copy_x(stage);
        if (++stage == STAGES) stage = 0, parity ^= 1;
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
    int stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

__device__ __forceinline__ void release(const Ring& ring, int stage) {
    const int lane = threadIdx.x & 31;
    if (lane < CLUSTER) barrier_arrive(ring.empty + stage * 8, lane);
}

// One warpgroup: the sums of `steps` steps of one tile.
__device__ __forceinline__ void consume(const Ring& ring, Stream& stream, int steps, int group, Sums& sums) {
    int before = 0;
    for (int i = 0; i < steps; ++i) {
        barrier_wait(ring.full + stream.stage * 8, stream.parity);
        settle(sums);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        const uint64_t a = matrix(ring.weights(stream.stage) + group * SLABS * 64 * DEPTH * 2);
        const uint64_t b = matrix(ring.x(stream.stage));
#pragma unroll
        for (int k = 0; k < DEPTH / 16; ++k)
#pragma unroll
            for (int s = 0; s < SLABS; ++s)
                multiply(sums[s], a + k * 2 + s * (64 * DEPTH * 2 >> 4), b + k * 2, i > 0 || k > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        if (i > 0) {
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            release(ring, before);
        }
        before = stream.stage;
        stream.advance();
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    settle(sums);
    release(ring, before);
}

__device__ __forceinline__ float4* part(const Product& p, int block) {
    return reinterpret_cast<float4*>(p.parts) + static_cast<int64_t>(block) * (SLABS * SUMS / 4) * CONSUMERS;
}

// The sums of a tile that another cluster began: left where that one finds them.
__device__ __forceinline__ void leave(const Product& p, const Sums& sums) {
    float4* to = part(p, blockIdx.x) + threadIdx.x;
#pragma unroll
    for (int s = 0; s < SLABS; ++s)
#pragma unroll
        for (int i = 0; i < SUMS / 4; ++i)
            __stcg(to + (s * SUMS / 4 + i) * CONSUMERS,
                   make_float4(sums[s][4 * i], sums[s][4 * i + 1], sums[s][4 * i + 2], sums[s][4 * i + 3]));
    __threadfence();
    consumers_meet();
    if (threadIdx.x == 0)
        asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p.left + blockIdx.x), "r"(1) : "memory");
}

// Adds what the clusters after this one left of the tile that ends at `end`, in their order.
__device__ __forceinline__ void take(const Product& p, const Place& place, int end, Sums& sums) {
    // One thread for each of them waits until its part is there.
    const int mine = place.cluster + 1 + threadIdx.x;
    if (mine < place.clusters) {
        const int begin = run_begin(p, mine, place.clusters);
        if (begin < end && begin < run_begin(p, mine + 1, place.clusters)) {
            uint32_t* left = p.left + mine * CLUSTER + place.rank;
            uint32_t there;
            do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(left) : "memory");
            while (there == 0);
            asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(left), "r"(0) : "memory");
        }
    }
    consumers_meet();
    int begin = place.end;
    for (int c = place.cluster + 1; begin < end; ++c) {
        const int next = run_begin(p, c + 1, place.clusters);
        if (next == begin) continue;
        begin = next;
        const float4* from = part(p, c * CLUSTER + place.rank) + threadIdx.x;
#pragma unroll
        for (int s = 0; s < SLABS; ++s)
#pragma unroll
            for (int i = 0; i < SUMS / 4; ++i) {
                const float4 more = __ldcg(from + (s * SUMS / 4 + i) * CONSUMERS);
                sums[s][4 * i] += more.x, sums[s][4 * i + 1] += more.y;
                sums[s][4 * i + 2] += more.z, sums[s][4 * i + 3] += more.w;
            }
    }
}

__device__ __forceinline__ uint32_t turned(float low, float high) {
    uint32_t packed, out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(packed));
    return out;
}

__device__ __forceinline__ float widened(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }

// A warpgroup's rows of a finished tile, eight tokens by sixteen rows at a time a warp.
__device__ __forceinline__ void store(const Product& p, int first_row, const Sums& sums) {
    const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
#pragma unroll
    for (int s = 0; s < SLABS; ++s) {
        const int row = first_row + s * 64 + warp * 16;
        float low = 0, high = 0;
        if (p.bias != nullptr && row + 15 < p.rows)
            low = widened(p.bias[row + lane / 4]), high = widened(p.bias[row + lane / 4 + 8]);
        uint16_t* to = p.out + static_cast<int64_t>(lane / 4) * p.stride + row + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < TOKENS / 8; ++j) {
            const uint32_t upper = turned(sums[s][4 * j] + low, sums[s][4 * j + 1] + low);
            const uint32_t lower = turned(sums[s][4 * j + 2] + high, sums[s][4 * j + 3] + high);
            if (j * 8 + lane / 4 < p.tokens && row + 15 < p.rows) {
                *reinterpret_cast<uint32_t*>(to) = upper;
                *reinterpret_cast<uint32_t*>(to + 8) = lower;
            }
            to += 8 * static_cast<int64_t>(p.stride);
        }
    }
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 32, 1)
    product(const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap x, const Product p) {
    // All blocks are resident, so the next kernel may take what room is left.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    extern __shared__ uint8_t memory[];
    Ring ring;
    // The swizzle counts rows from a multiple of 1024 bytes; blocks of a cluster have the same addresses.
    ring.stages = (shared_address(memory) + 1023) & ~1023u;
    ring.full = ring.stages + STAGES * STAGE_BYTES;
    ring.empty = ring.full + STAGES * 8;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(ring.full + i * 8, 1);
            barrier_init(ring.empty + i * 8, CLUSTER * GROUPS * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_meets();
    const Place place(p);
    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS) produce(weight, x, p, place, ring);
    } else {
        asm volatile("griddepcontrol.wait;" ::: "memory");  // what the kernel before reads may be written now
        const int group = threadIdx.x / 128;
        Stream stream;
        Sums sums;
        for (int at = place.begin; at < place.end;) {
            const int tile = at / p.steps, first = at % p.steps;
            const int rest = place.end - at, steps = p.steps - first < rest ? p.steps - first : rest;
            consume(ring, stream, steps, group, sums);
            at += steps;
            if (first > 0) {
                leave(p, sums);
            } else {
                if (steps < p.steps) take(p, place, (tile + 1) * p.steps, sums);
                store(p, (tile * CLUSTER + place.rank) * ROWS + group * SLABS * 64, sums);
            }
        }
    }
    __syncwarp();
    cluster_meets();  // no block ends while another may still write into it
}

}  // namespace baton
