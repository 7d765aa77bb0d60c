// A warp without a GPU, for tiles.h: lanes.h's functions as the PTX manual words them. 32 contexts take turns,
// and each that comes to what the lanes do together waits there until all have.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#define __device__
#define __forceinline__ inline

namespace baton {

constexpr unsigned ALL = 0xffffffffu;
constexpr int LANES = 32, WORDS = 8, STACK = 1 << 17;

struct Warp {
    ucontext_t all, lanes[LANES];
    alignas(16) uint8_t stacks[LANES][STACK];
    uint32_t said[2][LANES][WORDS];
    int turn[LANES];
    bool over[LANES];
    int lane;
    void (*work)(int);
};
inline Warp warp;
inline uint8_t shared[1 << 17];  // addressed from 0

inline void run_lane() {
    warp.work(warp.lane);
    warp.over[warp.lane] = true;
    swapcontext(&warp.lanes[warp.lane], &warp.all);
}

// Runs `work(lane)` in every lane of a warp.
inline void run_warp(void (*work)(int)) {
    warp.work = work;
    for (int lane = 0; lane < LANES; ++lane) {
        warp.turn[lane] = warp.over[lane] = 0;
        getcontext(&warp.lanes[lane]);
        warp.lanes[lane].uc_stack.ss_sp = warp.stacks[lane];
        warp.lanes[lane].uc_stack.ss_size = STACK;
        warp.lanes[lane].uc_link = nullptr;
        makecontext(&warp.lanes[lane], run_lane, 0);
    }
    for (bool more = true; more;) {
        more = false;
        for (int lane = 0; lane < LANES; ++lane)
            if (!warp.over[lane]) {
                warp.lane = lane;
                swapcontext(&warp.all, &warp.lanes[lane]);
                more = true;
            }
    }
}

using Said = const uint32_t (*)[WORDS];

// What every lane has said, once all have. Two boards: nobody writes the next while one is read.
inline Said meet(const uint32_t* words, int count) {
    const int lane = warp.lane, turn = warp.turn[lane];
    warp.turn[lane] ^= 1;
    memcpy(warp.said[turn][lane], words, count * 4);
    swapcontext(&warp.lanes[lane], &warp.all);
    return warp.said[turn];
}

inline uint32_t bits(float x) {
    uint32_t r;
    memcpy(&r, &x, 4);
    return r;
}

inline float number(uint32_t x) {
    float r;
    memcpy(&r, &x, 4);
    return r;
}

inline uint16_t bf16_bits(float x) {
    const uint32_t b = bits(x);
    return static_cast<uint16_t>((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

inline float bf16_number(uint16_t x) { return number(static_cast<uint32_t>(x) << 16); }

inline float f16_number(uint16_t x) {
    _Float16 r;
    memcpy(&r, &x, 2);
    return static_cast<float>(r);
}

inline uint16_t f16_bits(float x) {
    const _Float16 narrow = static_cast<_Float16>(x);
    uint16_t r;
    memcpy(&r, &narrow, 2);
    return r;
}

inline float e4m3_number(uint8_t x) {
    const int exponent = (x >> 3) & 15, fraction = x & 7;
    float size = exponent ? ldexpf(1 + fraction / 8.f, exponent - 7) : ldexpf(fraction / 8.f, -6);
    if ((x & 0x7f) == 0x7f) size = NAN;
    return x & 0x80 ? -size : size;
}

inline uint16_t half(uint32_t word, int which) { return static_cast<uint16_t>(word >> (16 * which)); }

inline uint32_t join(uint16_t low, uint16_t high) { return low | static_cast<uint32_t>(high) << 16; }

inline uint16_t stored(uint32_t address) {
    uint16_t r;
    memcpy(&r, shared + address, 2);
    return r;
}

inline void load(uint32_t (&r)[4], uint32_t address, bool transposed) {
    const int row = warp.lane / 4, pair = warp.lane % 4;
    const Said said = meet(&address, 1);
    for (int m = 0; m < 4; ++m) {
        uint16_t two[2];
        for (int k = 0; k < 2; ++k) {
            const int from = transposed ? 2 * pair + k : row, column = transposed ? row : 2 * pair + k;
            two[k] = stored(said[8 * m + from][0] + 2 * column);
        }
        r[m] = join(two[0], two[1]);
    }
}

inline void load_rows(uint32_t (&r)[4], uint32_t address) { load(r, address, false); }
inline void load_columns(uint32_t (&r)[4], uint32_t address) { load(r, address, true); }

// m16n8k16: a lane's A words are (row, k), (row + 8, k), (row, k + 8), (row + 8, k + 8) for k = 2 pair, its B
// words (k, row) and (k + 8, row), its results (row, 2 pair), + 1, and the same 8 rows on.
inline void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float (*value)(uint16_t)) {
    const int row = warp.lane / 4, pair = warp.lane % 4;
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const Said said = meet(mine, 6);
    for (int i = 0; i < 4; ++i) {
        const int m = row + 8 * (i / 2), n = 2 * pair + i % 2;
        for (int k = 0; k < 16; ++k) {
            const uint32_t left = said[m % 8 * 4 + k % 8 / 2][m / 8 + 2 * (k / 8)];
            const uint32_t right = said[n * 4 + k % 8 / 2][4 + k / 8];
            c[i] += value(half(left, k % 2)) * value(half(right, k % 2));
        }
    }
}

inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply(c, a, b, bf16_number);
}

inline void multiply_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply(c, a, b, f16_number);
}

inline float exp2_fast(float x) { return exp2f(x); }
inline uint32_t pack_bf16(float low, float high) { return join(bf16_bits(low), bf16_bits(high)); }
inline uint32_t pack_f16(float low, float high) { return join(f16_bits(low), f16_bits(high)); }

inline void widen(uint32_t& low, uint32_t& high, uint32_t four) {
    uint8_t x[4];
    memcpy(x, &four, 4);
    low = join(f16_bits(e4m3_number(x[0])), f16_bits(e4m3_number(x[1])));
    high = join(f16_bits(e4m3_number(x[2])), f16_bits(e4m3_number(x[3])));
}

inline uint32_t choose_bytes(uint32_t a, uint32_t b, uint32_t order) {
    const uint64_t eight = a | static_cast<uint64_t>(b) << 32;
    uint32_t r = 0;
    for (int i = 0; i < 4; ++i) r |= static_cast<uint32_t>(eight >> (8 * (order >> (4 * i) & 7)) & 0xff) << (8 * i);
    return r;
}

inline uint32_t transpose(uint32_t two) {
    const int row = warp.lane / 4, pair = warp.lane % 4;
    const Said said = meet(&two, 1);
    uint16_t found[2];
    for (int k = 0; k < 2; ++k) found[k] = half(said[(2 * pair + k) * 4 + row / 2][0], row % 2);
    return join(found[0], found[1]);
}

inline float from_lane(float x, int distance) {
    const uint32_t mine = bits(x);
    const int other = warp.lane ^ distance;
    return number(meet(&mine, 1)[other][0]);
}

inline bool any_lane(bool x) {
    const uint32_t mine = x;
    const Said said = meet(&mine, 1);
    bool any = false;
    for (int lane = 0; lane < LANES; ++lane) any |= said[lane][0] != 0;
    return any;
}

inline int computed_here(int x) { return x; }

inline uint32_t read_fresh(const void* from) {
    uint32_t r;
    memcpy(&r, from, 4);
    return r;
}

}  // namespace baton
