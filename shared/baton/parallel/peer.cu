// The sum of one small tensor over the ranks of one host, each of which can write the others' memory.
//
// Every rank has a mailbox that all ranks have mapped. A thread writes its 16 bytes of x into the mailbox of every
// other rank, waits until theirs have come into its own, and adds all of them up in the order of ranks, in float32: the
// same bits on every rank. Nothing but the data travels: an empty word of a mailbox is EMPTY, which no x that is sent
// contains, so a word that is not EMPTY has arrived, whatever became of its neighbours. There are no flags, no
// fences, and one way over the link a sum.
//
// A reader empties what it has read. A mailbox has two sides, used in turn, and one block of threads a compartment of
// each, which no other block touches. Why nothing is overwritten: when this block writes side s for its turn t + 2, it
// has ended turn t + 1, so the same block of every other rank had begun turn t + 1, hence that rank's kernel
// of turn t had ended, and with it the emptying of side s. (Kernels of one stream follow each other; those that
// begin early wait, below, before they touch memory.) So each block counts its own turns, in memory, and a captured
// launch may be replayed any number of times, between launches of any other size.
//
// Compiled once for a number of ranks; see peer.py for the layout and peer_memory.py for the mapping.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace {

constexpr uint32_t EMPTY = 0xFFFFFFFF;   // NaN in float32, two NaN in the 16-bit types
constexpr uint32_t INSTEAD = 0x7FFFFFFF;  // likewise NaN
constexpr int64_t SIDE = static_cast<int64_t>(BLOCKS) * MOST;  // of one sender: in units of 16 bytes
constexpr int LOOKS = 1024;                                    // between two looks at the clock

struct Sum {
    uint4* x;          // in place; units of 16 bytes
    uint32_t* turns;   // [BLOCKS]: how many this block has had
    uint4* here;       // this rank's mailbox: [2 sides][RANKS senders][BLOCKS][MOST]
    uint4* there[RANKS];  // everybody's
    uint32_t* failed;  // told when the others did not come; null: end the process's work instead
    uint64_t patience;  // nanoseconds
    int32_t count;     // units in x
    int32_t share;     // units a block, at most MOST
    int32_t rank;
    int32_t unused;
};

__device__ __forceinline__ void send(uint4* to, const uint4& v) {
    asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

__device__ __forceinline__ uint4 look(const uint4* at) {
    uint4 v;
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at)
                 : "memory");
    return v;
}

__device__ __forceinline__ bool whole(const uint4& v) {
    return (v.x != EMPTY) & (v.y != EMPTY) & (v.z != EMPTY) & (v.w != EMPTY);
}

__device__ __forceinline__ uint32_t never_empty(uint32_t word) { return word == EMPTY ? INSTEAD : word; }

// What the kernel ahead has written may lie stale in this SM's L1: read the L2.
__device__ __forceinline__ uint4 own(const uint4* x) {
    const uint4 v = __ldcg(x);
    return {never_empty(v.x), never_empty(v.y), never_empty(v.z), never_empty(v.w)};
}

__device__ __forceinline__ uint64_t clock_ns() {
    uint64_t now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}

struct Float32 {
    static constexpr int EACH = 1;  // numbers in a word
    static __device__ __forceinline__ void add(float* to, uint32_t word) { to[0] += __uint_as_float(word); }
    static __device__ __forceinline__ uint32_t rounded(const float* from) { return __float_as_uint(from[0]); }
};

struct Bfloat16 {
    static constexpr int EACH = 2;
    static __device__ __forceinline__ void add(float* to, uint32_t word) {
        to[0] += __uint_as_float(word << 16);
        to[1] += __uint_as_float(word & 0xFFFF0000);
    }
    static __device__ __forceinline__ uint32_t rounded(const float* from) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(from[0], from[1]);  // apart they take many times as long
        return reinterpret_cast<const uint32_t&>(pair);
    }
};

struct Float16 {
    static constexpr int EACH = 2;
    static __device__ __forceinline__ void add(float* to, uint32_t word) {
        to[0] += __half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xFFFF)));
        to[1] += __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
    }
    static __device__ __forceinline__ uint32_t rounded(const float* from) {
        const __half2 pair = __floats2half2_rn(from[0], from[1]);
        return reinterpret_cast<const uint32_t&>(pair);
    }
};

// parts[r] for all r but this rank's own, once all have come; false when they do not.
__device__ __forceinline__ bool receive(const Sum& s, const uint4* box, uint4 (&parts)[RANKS]) {
    uint64_t began = 0;
    for (int looks = 1;; ++looks) {
        bool all = true;
#pragma unroll
        for (int r = 0; r < RANKS; ++r) {
            if (r != s.rank) {
                parts[r] = look(box + r * SIDE);
                all = all && whole(parts[r]);
            }
        }
        if (all) return true;
        if (looks % LOOKS == 0) {
            const uint64_t now = clock_ns();
            if (began == 0) {
                began = now;
            } else if (now - began > s.patience) {
                if (s.failed == nullptr) __trap();
                *s.failed = 1;
                return false;
            }
        }
    }
}

template <typename Number>
__device__ __forceinline__ uint4 added(const uint4 (&parts)[RANKS]) {
    float sums[4 * Number::EACH];
#pragma unroll
    for (float& sum : sums) sum = -0.0f;  // the sum of nothing that keeps the sign of every first term
#pragma unroll
    for (int r = 0; r < RANKS; ++r) {
        Number::add(sums, parts[r].x);
        Number::add(sums + Number::EACH, parts[r].y);
        Number::add(sums + 2 * Number::EACH, parts[r].z);
        Number::add(sums + 3 * Number::EACH, parts[r].w);
    }
    return {Number::rounded(sums), Number::rounded(sums + Number::EACH), Number::rounded(sums + 2 * Number::EACH),
            Number::rounded(sums + 3 * Number::EACH)};
}

template <typename Number>
__device__ __forceinline__ void sum_up(const Sum& s) {
#if __CUDA_ARCH__ >= 900
    // All blocks are resident or have ended by now, so the next kernel's may take what room is left.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const int block = blockIdx.x, begin = block * s.share;
    const int count = s.count - begin < s.share ? s.count - begin : s.share;
    uint4* x = s.x + begin;
    const uint32_t turn = __ldcg(s.turns + block);
    const int64_t at = (turn & 1) * (RANKS * SIDE) + static_cast<int64_t>(block) * MOST;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const uint4 mine = own(x + i);
#pragma unroll
        for (int step = 1; step < RANKS; ++step) {  // not all to the same rank at the same time
            const int to = s.rank + step < RANKS ? s.rank + step : s.rank + step - RANKS;
            send(s.there[to] + at + s.rank * SIDE + i, mine);
        }
    }
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const uint4 mine = own(x + i);
        uint4* box = s.here + at + i;
        uint4 parts[RANKS];
        if (!receive(s, box, parts)) break;
#pragma unroll
        for (int r = 0; r < RANKS; ++r) {
            if (r != s.rank) {
                send(box + r * SIDE, uint4{EMPTY, EMPTY, EMPTY, EMPTY});
            } else {
                parts[r] = mine;
            }
        }
        x[i] = added<Number>(parts);
    }
    __syncthreads();  // everybody has read the turn
    if (threadIdx.x == 0) s.turns[block] = turn + 1;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS) sum_float32(const __grid_constant__ Sum s) {
    sum_up<Float32>(s);
}

extern "C" __global__ void __launch_bounds__(THREADS) sum_bfloat16(const __grid_constant__ Sum s) {
    sum_up<Bfloat16>(s);
}

extern "C" __global__ void __launch_bounds__(THREADS) sum_float16(const __grid_constant__ Sum s) {
    sum_up<Float16>(s);
}
