// Barriers of a block and collectives of a warp. Every lane that a mask names must come to the same collective.
#pragma once

#define __syncthreads() simt_barrier(0, 0, __LINE__)
#define __syncthreads_count(p) ::simt::vote_of_block(p, __LINE__).count
#define __syncthreads_or(p) (::simt::vote_of_block(p, __LINE__).count != 0)
#define __syncthreads_and(p) ::simt::vote_of_block(p, __LINE__).all()
#define __syncwarp(...) simt_collective(::simt::mask_of(__VA_ARGS__), "__syncwarp", __LINE__, ::simt::nothing, nullptr, true)
#define __activemask() simt_active()

#define __shfl_sync(mask, value, ...) ::simt::shuffle<::simt::INDEX>(mask, "__shfl_sync", __LINE__, value, __VA_ARGS__)
#define __shfl_up_sync(mask, value, ...) ::simt::shuffle<::simt::UP>(mask, "__shfl_up_sync", __LINE__, value, __VA_ARGS__)
#define __shfl_down_sync(mask, value, ...) \
    ::simt::shuffle<::simt::DOWN>(mask, "__shfl_down_sync", __LINE__, value, __VA_ARGS__)
#define __shfl_xor_sync(mask, value, ...) \
    ::simt::shuffle<::simt::XOR>(mask, "__shfl_xor_sync", __LINE__, value, __VA_ARGS__)
#define __ballot_sync(mask, p) ::simt::ballot(mask, "__ballot_sync", __LINE__, (p) != 0)
#define __any_sync(mask, p) (::simt::ballot(mask, "__any_sync", __LINE__, (p) != 0) != 0)
#define __all_sync(mask, p) (::simt::ballot(mask, "__all_sync", __LINE__, (p) == 0) == 0)
#define __match_any_sync(mask, value) ::simt::match(mask, __LINE__, value)
#define __reduce_add_sync(mask, value) \
    ::simt::reduce(mask, "__reduce_add_sync", __LINE__, value, [](auto a, auto b) { return a + b; })
#define __reduce_min_sync(mask, value) \
    ::simt::reduce(mask, "__reduce_min_sync", __LINE__, value, [](auto a, auto b) { return b < a ? b : a; })
#define __reduce_max_sync(mask, value) \
    ::simt::reduce(mask, "__reduce_max_sync", __LINE__, value, [](auto a, auto b) { return a < b ? b : a; })
#define __reduce_and_sync(mask, value) \
    ::simt::reduce(mask, "__reduce_and_sync", __LINE__, value, [](auto a, auto b) { return a & b; })
#define __reduce_or_sync(mask, value) \
    ::simt::reduce(mask, "__reduce_or_sync", __LINE__, value, [](auto a, auto b) { return a | b; })
#define __reduce_xor_sync(mask, value) \
    ::simt::reduce(mask, "__reduce_xor_sync", __LINE__, value, [](auto a, auto b) { return a ^ b; })

extern "C" simt::u32 simt_vote_of_block(simt::u32 vote, simt::u32 line);

namespace simt {

#define SIMT_PLAIN __attribute__((no_sanitize("thread")))

inline u32 mask_of(u32 mask = ~0u) { return mask; }
inline void nothing(u32, void* const*) {}

struct BlockVote {
    u32 count;
    bool all() const { return count == self().block_size.x * self().block_size.y * self().block_size.z; }
};
inline BlockVote vote_of_block(bool vote, u32 line) { return {simt_vote_of_block(vote, line)}; }

enum Shuffle { INDEX, UP, DOWN, XOR };

// Where a lane reads from, by PTX's shfl: lanes beyond the segment give the lane's own value.
SIMT_PLAIN inline u32 shuffle_source(Shuffle how, u32 lane, u32 by, u32 width) {
    u32 first = lane & ~(width - 1), last = first + width - 1;
    switch (how) {
        case INDEX: return first + (by & (width - 1));
        case UP: return lane < first + by ? lane : lane - by;
        case DOWN: return lane + by > last ? lane : lane + by;
        default: return (lane ^ by) > last ? lane : lane ^ by;
    }
}

template <class T> struct Shuffled {
    T value, result;
    u32 from;
};

template <Shuffle HOW, class T>
SIMT_PLAIN inline T shuffle(u32 mask, const char* what, u32 line, T value, u32 by, u32 width = WARP) {
    Shuffled<T> mine{value, value, shuffle_source(HOW, self().lane, by, width)};
    simt_collective(mask, what, line, [](u32 mask, void* const* brought) SIMT_PLAIN {
        for (u32 lane = 0; lane < WARP; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto& to = *(Shuffled<T>*)brought[lane];
            if (!(mask >> to.from & 1)) simt_trap("a shuffle reads a lane that its mask does not name", 0);
            to.result = ((Shuffled<T>*)brought[to.from])->value;
        }
    }, &mine, false);
    return mine.result;
}

struct Ballot {
    u32 vote, result;
};

SIMT_PLAIN inline u32 ballot(u32 mask, const char* what, u32 line, bool vote) {
    Ballot mine{vote, 0};
    simt_collective(mask, what, line, [](u32 mask, void* const* brought) SIMT_PLAIN {
        u32 votes = 0;
        for (u32 lane = 0; lane < WARP; lane++)
            if (mask >> lane & 1) votes |= ((Ballot*)brought[lane])->vote << lane;
        for (u32 lane = 0; lane < WARP; lane++)
            if (mask >> lane & 1) ((Ballot*)brought[lane])->result = votes;
    }, &mine, false);
    return mine.result;
}

template <class T> struct Matched {
    T value;
    u32 result;
};

template <class T> SIMT_PLAIN inline u32 match(u32 mask, u32 line, T value) {
    Matched<T> mine{value, 0};
    simt_collective(mask, "__match_any_sync", line, [](u32 mask, void* const* brought) SIMT_PLAIN {
        for (u32 lane = 0; lane < WARP; lane++)
            for (u32 other = 0; other < WARP; other++)
                if ((mask >> lane & 1) && (mask >> other & 1) &&
                    __builtin_memcmp(&((Matched<T>*)brought[lane])->value, &((Matched<T>*)brought[other])->value, sizeof(T)) == 0)
                    ((Matched<T>*)brought[lane])->result |= 1u << other;
    }, &mine, false);
    return mine.result;
}

template <class T, class F> SIMT_PLAIN inline T reduce(u32 mask, const char* what, u32 line, T value, F) {
    T mine = value;
    simt_collective(mask, what, line, [](u32 mask, void* const* brought) SIMT_PLAIN {
        T all = *(T*)brought[__builtin_ctz(mask)];
        for (u32 lane = __builtin_ctz(mask) + 1; lane < WARP; lane++)
            if (mask >> lane & 1) all = F{}(all, *(T*)brought[lane]);
        for (u32 lane = 0; lane < WARP; lane++)
            if (mask >> lane & 1) *(T*)brought[lane] = all;
    }, &mine, false);
    return mine;
}

}  // namespace simt
