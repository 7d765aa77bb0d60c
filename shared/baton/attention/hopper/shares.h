// How one step's reading is divided among warps: plain integers, no memory but the prefix array.
//
// The unit is a tile: 16 tokens' K and V of one sequence and one KV head. Every (sequence, head) pair
// costs its tiles plus OVERHEAD units for starting and ending it; the pairs stand in one line, head
// changing fastest, and each warp owns one piece of that line. decode.cu runs this on the device; the
// tests compile it for the host. Nothing here may know about CUDA beyond the qualifiers.
#pragma once

#ifdef __CUDACC__
#define BATON_BOTH __host__ __device__ __forceinline__
#else
#define BATON_BOTH inline
#endif

namespace baton {

constexpr int TILE = 16;

BATON_BOTH int least_of(int a, int b) { return a < b ? a : b; }
BATON_BOTH int most_of(int a, int b) { return a > b ? a : b; }

// First tile that a sequence's new token may see; `window` 0 means all of them.
BATON_BOTH int first_tile(int length, int window) {
    return window > 0 && length > window ? (length - window) / TILE : 0;
}

BATON_BOTH int tile_count(int length, int window) {
    return length > 0 ? (length + TILE - 1) / TILE - first_tile(length, window) : 0;
}

// What one pair costs; an empty sequence costs nothing and is never visited.
BATON_BOTH int pair_cost(int tiles, int overhead) { return tiles > 0 ? tiles + overhead : 0; }

// What starting and ending pairs costs, in tiles: the same for all, or as `each` says.
struct Overheads {
    int all;
    const int* each;  // [batch], or null

    BATON_BOTH int of(int seq) const { return each == nullptr ? all : each[seq]; }
};

// `total` units cut into `active` pieces whose sizes differ by one at most.
struct Division {
    int active, share, extra;

    BATON_BOTH Division(int total, int warps, int least) {
        active = most_of(1, least_of(warps, (total + least - 1) / least));
        share = total / active;
        extra = total % active;
    }
    BATON_BOTH int begin(int warp) const { return warp * share + least_of(warp, extra); }
    BATON_BOTH int count(int warp) const { return share + (warp < extra ? 1 : 0); }
    // The warp whose piece holds `unit`.
    BATON_BOTH int owner(int unit) const {
        int large = extra * (share + 1);
        return unit < large ? unit / (share + 1) : extra + (unit - large) / share;
    }
};

// A run of tiles [first, end) of one pair, counted from the pair's first visible tile.
struct Segment {
    int seq, head, first, end, tiles;
};

// Walks over one piece of the line, segment by segment. `prefix[s]` is the cost of one head of all
// sequences before s, so sequence s begins at unit `prefix[s] * heads`.
struct Walk {
    const int* prefix;
    int heads;
    Overheads overheads;
    int seq, head, at, left;

    BATON_BOTH Walk(const int* prefix_, int batch, int heads_, const Overheads& overheads_, int begin, int count)
        : prefix(prefix_), heads(heads_), overheads(overheads_), left(count) {
        int low = 0, high = batch - 1;  // the first sequence that ends after `begin`
        while (low < high) {
            int middle = (low + high) / 2;
            if (prefix[middle + 1] * heads > begin) high = middle;
            else low = middle + 1;
        }
        seq = low;
        int cost = prefix[low + 1] - prefix[low];
        int inside = begin - prefix[low] * heads;
        head = cost > 0 ? inside / cost : 0;
        at = inside - head * cost;
    }

    BATON_BOTH bool next(Segment& segment) {
        while (left > 0) {
            int cost = prefix[seq + 1] - prefix[seq];
            int take = least_of(cost - at, left);
            const int overhead = overheads.of(seq);
            segment.seq = seq;
            segment.head = head;
            segment.tiles = cost - overhead;
            segment.first = most_of(at - overhead, 0);
            segment.end = at + take - overhead;
            left -= take;
            at = 0;
            if (cost == 0 || ++head == heads) {
                head = 0;
                ++seq;
            }
            if (take > 0 && segment.first < segment.end) return true;
        }
        return false;
    }
};

// The warps that hold tiles of a pair: `first` and the next `count - 1`.
struct Owners {
    int first, count;

    BATON_BOTH Owners(const Division& division, const Walk& walk, const Segment& segment) {
        const int overhead = walk.overheads.of(segment.seq);
        int cost = segment.tiles + overhead;
        int begin = walk.prefix[segment.seq] * walk.heads + segment.head * cost;
        first = division.owner(begin + overhead);
        count = division.owner(begin + cost - 1) - first + 1;
    }
};

}  // namespace baton
