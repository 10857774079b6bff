// Four tiles' rows of mainloop_lanes.wgsl one below the other, in one loop over the elements: a processor reads memory lane
// by lane, so the keys that a lane has read serve 32 rows instead of eight.
//
// Constants: CANONICAL, 1 where the dot products are to be canonical ones; else COMPENSATED = 0.
// Threads: 16 × 2, in subgroups of eight along x. Thread (x, y) holds what threads (x, 4y), … (x, 4y + 3) of
// mainloop_lanes.wgsl hold.
#include "mainloop_lanes.wgsl"

/// What four threads of mainloop_lanes.wgsl hold.
struct Tall {
    tiles: array<Tile, 4>,
}

/// The thread of mainloop_lanes.wgsl that holds tile n of this one's.
fn thread_of_tile(n: u32, thread: vec3<u32>) -> vec3<u32> {
    return vec3<u32>(thread.x, thread.y * 4u + n, thread.z);
}

#include "mainloop_tall_sums_lanes.wgsl" where CANONICAL = 0
#include "mainloop_tall_canonical_lanes.wgsl" where CANONICAL = 1
