// Attention of one new token per sequence over the paged pool, or of up to LINES that follow each other, for
// compute capability 9.0.
//
// Each warp is a stream of its own: it owns a piece of the line of tiles (shares.h), keeps STAGES tiles on
// their way from memory with the tensor copy engine, and folds each into a running softmax (tiles.h). Where
// pairs are few, a block's warps own one piece together and take its tiles in turn. A pair (sequence, KV head)
// may be shared by several owners. Its first owner comes to it last, when the others mostly have left their
// parts (parts.h), and puts them together in a fixed order, so equal inputs give equal bits. It waits for
// parts still to come: that ends, because every block is resident and none waits before leaving its own part.
//
// Compiled by compiler.py with -DHEAD_DIM -DGROUP -DLINES -DEIGHT_BITS -DWARPS -DSTAGES -DOVERHEAD -DLEAST
// -DTOGETHER -DOVERHEAD_TOGETHER.
#include "parts.h"
#include "shares.h"
#include "tiles.h"

using namespace baton;

constexpr int THREADS = WARPS * 32;
constexpr int merged(int most) { return QUERIES % most == 0 ? most : merged(most - 1); }
constexpr int MERGED_HEADS = merged(8);  // by one warp at a time
constexpr uint64_t READ_ONCE = 0x12F0000000000000;  // L2 policy: evict first

struct alignas(64) TensorMap {
    uint8_t bytes[128];
};

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
__device__ __forceinline__ void copy_tile(const TensorMap& pool, uint32_t stage, uint32_t barrier, int slot,
                                          int plane) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%2, %3, %2, %4}], [%5], %6;" ::"r"(stage), "l"(&pool), "r"(0), "r"(slot), "r"(plane),
        "r"(barrier), "l"(READ_ONCE)
        : "memory");
}

// The batch as the prologue leaves it in shared memory.
struct Batch {
    int* prefix;     // [batch + 1]
    int* lengths;    // [batch]
    int* rows;       // [batch]
    int* starts;     // [batch + 1], where LINES are more than one
    int* overheads;  // [batch], as well

    __device__ __forceinline__ Tokens tokens(int seq) const {
        if constexpr (LINES == 1) return Tokens{seq, 1};
        else return Tokens{starts[seq], starts[seq + 1] - starts[seq]};
    }
};

// Who owns a piece: a warp, or a block's warps together.
struct Team {
    int number, size, rank;  // which piece; how many warps; which of them this is
};

// Keeps the warp's ring full. Page-table entries are read one run (up to 32 of the warp's tiles) ahead.
struct Feed {
    const Step& step;
    const Batch& batch;
    const TensorMap& pool;
    const Team& team;
    Walk walk;
    Segment segment;
    int tile;                         // next of `segment` to put into a run
    int page, at, count, head, base;  // the run being copied; `page` is per lane
    int next_page, next_count, next_head, next_base;
    int lane;

    __device__ __forceinline__ Feed(const Step& s, const Batch& b, const TensorMap& p, const Team& t, const Walk& w,
                                    int lane_)
        : step(s), batch(b), pool(p), team(t), walk(w), tile(0), at(0), count(0), lane(lane_) {
        segment.end = 0;
        read_ahead();
    }

    __device__ __forceinline__ void read_ahead() {
        next_count = 0;
        while (tile >= segment.end) {
            if (!walk.next(segment)) return;
            tile = segment.first + team.rank;
        }
        next_count = least_of(32, (segment.end - tile + team.size - 1) / team.size);
        next_head = segment.head;
        next_base = first_tile(batch.lengths[segment.seq], step.window) + tile;
        tile += next_count * team.size;
        if (lane < next_count) {
            const int64_t row = batch.rows[segment.seq];
            const int column = (next_base + lane * team.size) / step.page_tiles;
            next_page = __ldg(step.table + row * step.table_stride + column);
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
            const int slot = step.page_tiles == 1 ? 0 : (base + at * team.size) % step.page_tiles * TILE;
            const int plane = ((found * step.kv_heads + head) * step.layers + step.layer) * 2;
            barrier_expect(barrier, STAGE_BYTES);
            copy_tile(pool, stage, barrier, slot, plane);
        }
        ++at;
    }
};

// Prefix sums of the sequences' costs, their lengths and rows, into shared memory. All threads.
__device__ __forceinline__ void read_batch(const Step& step, const Batch& batch, int overhead, int* warp_sums) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int before = 0;
    for (int base = 0; base < step.batch; base += THREADS) {
        const int seq = base + threadIdx.x;
        const bool inside = seq < step.batch;
        const int length = inside ? __ldg(step.lengths + seq) : 0;
        const int row = inside ? __ldg(step.rows + seq) : 0;
        const int tiles = tile_count(length, step.window);
        int start = 0, own = overhead;
        if constexpr (LINES > 1) {
            start = __ldg(step.starts + least_of(seq, step.batch));
            const int count = __ldg(step.starts + least_of(seq + 1, step.batch)) - start;
            if (count * GROUP > NARROW * 8) own += SEVERAL + tiles * SLOWER / 16;
        }
        const int cost = pair_cost(tiles, own);
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
            if constexpr (LINES > 1) batch.starts[seq] = start, batch.overheads[seq] = own;
        }
        before += all;
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        batch.prefix[step.batch] = before;
        if constexpr (LINES > 1) batch.starts[step.batch] = __ldg(step.starts + step.batch);
    }
    __syncthreads();
}

// Rows of empty sequences are read by nobody, but NaN must not sit there. With LINES, whoever has no tokens has no
// rows.
__device__ __forceinline__ void clear_empty(const Step& step, const Batch& batch) {
    const int words = step.kv_heads * GROUP * HEAD_DIM / 2;
    for (int seq = blockIdx.x; seq < step.batch; seq += gridDim.x) {
        if (batch.lengths[seq] > 0) continue;
        uint32_t* to = reinterpret_cast<uint32_t*>(step.out) + static_cast<int64_t>(seq) * words;
        for (int i = threadIdx.x; i < words; i += THREADS) to[i] = 0;
    }
}

// What this team's warp has of a segment goes to the result, to the pair's first owner, or, being the first
// owner's, meets the others' parts. `parts` holds one part of each warp of the block. All warps of the team.
template <int COLUMNS>
__device__ __forceinline__ void finish(const Step& step, const Division& division, const Walk& walk, const Team& team,
                                       const Segment& segment, const Tokens& tokens, Running<COLUMNS>& running,
                                       float* parts, int lane) {
    const bool whole = segment.first == 0 && segment.end == segment.tiles;
    if (team.size == 1 && whole) {
        running.store(step, segment, tokens, lane);
        return;
    }
    const Owners owners(division, walk, segment);
    const int end = owners.first + owners.count;
    const auto hand_on = [&](auto& merge) {
        if (segment.first > 0) {
            merge.leave(team.number);
        } else {
            if (!whole) merge.take_far(team.number + 1, end);  // a stream's last segment: nobody waits for this team
            merge.store(segment, tokens);
        }
    };
    const int warp = threadIdx.x >> 5, queries = tokens.count * GROUP;
    running.lay_out(parts + warp * PART_FLOATS, lane);
    if (team.size == 1) {
        __syncwarp();
        for (int head = 0; head < queries; head += MERGED_HEADS) {
            Merge<MERGED_HEADS> merge(step, head, lane);
            merge.take_near(parts + warp * PART_FLOATS);
            hand_on(merge);
        }
        __syncwarp();
    } else {
        __syncthreads();
        for (int head = warp; head < queries; head += WARPS) {
            Merge<1> merge(step, head, lane);
#pragma unroll
            for (int w = 0; w < WARPS; ++w) merge.take_near(parts + w * PART_FLOATS);
            hand_on(merge);
        }
        __syncthreads();
    }
}

// A warp's tiles in shared memory, and which of them comes next.
struct Ring {
    uint32_t tiles, barriers;
    int stage;
    uint32_t parity;

    __device__ __forceinline__ uint32_t tile() const { return tiles + stage * STAGE_BYTES; }
    __device__ __forceinline__ uint32_t barrier() const { return barriers + stage * 8; }
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// Where a warp is on its piece of the line.
struct Place {
    Walk walk;
    Segment coming;
    bool more;
};

// The segments of a warp's piece from `place` on, up to the first whose queries need more columns.
template <int COLUMNS>
__device__ __forceinline__ void stream(const Step& step, const Batch& batch, const Division& division,
                                       const Team& team, Place& place, Feed& feed, Ring& ring, float* parts,
                                       int lane) {
    const auto fits = [&] {
        return place.more && (COLUMNS == WIDE || batch.tokens(place.coming.seq).count * GROUP <= COLUMNS * 8);
    };
    const auto load = [&](auto& q) {
        load_queries(q, step, place.coming.head, batch.tokens(place.coming.seq), lane);
    };
    // Read before they are needed, where a lane has room for them.
    constexpr bool AHEAD = COLUMNS == NARROW;
    Queries<COLUMNS> q, coming_q;
    if (AHEAD && fits()) load(coming_q);
    while (fits()) {
        const Segment segment = place.coming;
        if constexpr (AHEAD) {
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
                for (int i = 0; i < CHUNKS; ++i) q[n][i][0] = coming_q[n][i][0], q[n][i][1] = coming_q[n][i][1];
        } else {
            load(q);
        }
        place.more = place.walk.next(place.coming);
        if (AHEAD && fits()) load(coming_q);
        const int length = batch.lengths[segment.seq];
        const Tokens tokens = batch.tokens(segment.seq);
        const int origin = first_tile(length, step.window) * TILE;
        const int oldest = step.window > 0 ? length - step.window : 0;
        Running<COLUMNS> running;
        running.clear();
        for (int tile = segment.first + team.rank; tile < segment.end; tile += team.size) {
            const int begin = origin + tile * TILE;
            barrier_wait(ring.barrier(), ring.parity);
            running.fold(ring.tile(), q, tokens, step.scale, oldest - begin, length - begin, lane);
            __syncwarp();
            feed.copy_next(ring.tile(), ring.barrier());
            ring.advance();
        }
        finish(step, division, place.walk, team, segment, tokens, running, parts, lane);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    decode(const __grid_constant__ TensorMap pool, const Step step) {
    // Every block is resident once all have come here, so the next kernel may take what room is left.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    extern __shared__ uint8_t memory[];
    __shared__ int warp_sums[WARPS];
    // The swizzle counts rows from a multiple of 1024 bytes.
    uint8_t* rings = memory + (-shared_address(memory) & 1023u);
    float* parts = reinterpret_cast<float*>(rings + WARPS * STAGES * STAGE_BYTES);
    uint8_t* after = reinterpret_cast<uint8_t*>(parts + WARPS * PART_FLOATS);
    const uint32_t barriers = shared_address(after);
    Batch batch;
    batch.prefix = reinterpret_cast<int*>(after + WARPS * STAGES * 8);
    batch.lengths = batch.prefix + step.batch + 1;
    batch.rows = batch.lengths + step.batch;
    batch.starts = batch.rows + step.batch;
    batch.overheads = batch.starts + step.batch + 1;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (threadIdx.x < WARPS * STAGES) barrier_init(barriers + threadIdx.x * 8);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    if (threadIdx.x == 0) asm volatile("prefetch.tensormap [%0];" ::"l"(&pool) : "memory");
    // Lengths, rows and table are written before the step's first kernel: they may be read before the
    // kernel that stored this layer's K and V has ended. Everything else may not.
    const bool together = step.batch * step.kv_heads <= static_cast<int>(gridDim.x) * TOGETHER;
    const int overhead = together ? OVERHEAD_TOGETHER : OVERHEAD;
    read_batch(step, batch, overhead, warp_sums);
    const int total = batch.prefix[step.batch] * step.kv_heads, grid = gridDim.x;
    // Neighbouring pieces go to different multiprocessors.
    const Team team = together ? Team{static_cast<int>(blockIdx.x), WARPS, warp}
                               : Team{warp * grid + static_cast<int>(blockIdx.x), 1, 0};
    const Division division(total, together ? grid : grid * WARPS, LEAST);
    if (team.number < division.active && total > 0) {
        const int begin = division.begin(team.number), count = division.count(team.number);
        const Overheads overheads{overhead, LINES > 1 ? batch.overheads : nullptr};
        const Walk walk(batch.prefix, step.batch, step.kv_heads, overheads, begin, count);
        Feed feed(step, batch, pool, team, walk, lane);
        asm volatile("griddepcontrol.wait;" ::: "memory");
        Ring ring{shared_address(rings) + warp * STAGES * STAGE_BYTES, barriers + warp * STAGES * 8, 0, 0};
#pragma unroll
        for (int i = 0; i < STAGES; ++i) feed.copy_next(ring.tiles + i * STAGE_BYTES, ring.barriers + i * 8);
        Place place{walk};
        place.more = place.walk.next(place.coming);
        stream<NARROW>(step, batch, division, team, place, feed, ring, parts, lane);
        if constexpr (NARROW < WIDE) stream<WIDE>(step, batch, division, team, place, feed, ring, parts, lane);
    }
    asm volatile("griddepcontrol.wait;" ::: "memory");
    if constexpr (LINES == 1) clear_empty(step, batch);
}
