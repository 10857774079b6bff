// Rows by vectors of four elements, for a processor that plays a GPU, which reads memory lane by lane, however many bytes
// a lane wants: so it reads 64 bits at a time. See mainloop_lanes.wgsl.
//
// Memory: what `queries` (binding 1) and `keys` (binding KEYS) hold.

@group(0) @binding(1) var<storage, read> wide_queries: array<vec2<u64>>;
@group(0) @binding(KEYS) var<storage, read> wide_keys: array<vec2<u64>>;

fn narrow(x: vec2<u64>) -> vec4<f32> {
    let high = x >> vec2<u32>(32u);
    return bitcast<vec4<f32>>(vec4<u32>(u32(x.x), u32(high.x), u32(x.y), u32(high.y)));
}

fn query_vector(place: u32) -> vec4<f32> {
    return narrow(wide_queries[place]);
}

fn key_vector(place: u32) -> vec4<f32> {
    return narrow(wide_keys[place]);
}
