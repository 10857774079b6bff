// The product of `multiply` for a processor that plays a GPU, where a subgroup is one vector register: see
// mainloop_lanes.wgsl.
//
// Maths: eight products are added in a tree, these sums eight at a time, and these in f32.
// Threads: 16 × 8, in subgroups of eight along x. Thread (x, y) holds rows 8y, … 8y + 7 and of the half of the elements
// that its subgroup is, every eighth: four.

const HELD_ROWS = 8u;
const HELD_COLUMNS = 4u;

struct Tile {
    rows: array<vec4<f32>, 8>,
}

fn row_of(i: u32, thread: vec3<u32>) -> u32 {
    return thread.y * 8u + i;
}

fn column_of(j: u32, thread: vec3<u32>) -> u32 {
    return (thread.x / 8u) * 32u + j * 8u + thread.x % 8u;
}

fn slope(row: u32, k: u32) -> f32 {
    return slopes[select(row * parameters.stride + k, k * parameters.stride + row, TURNED == 1u)];
}

// Four elements of a row. Rows behind the last repeat it.
fn row_elements(k: u32, elements: vec4<u32>) -> vec4<f32> {
    let at = min(k, parameters.inner - 1u) * parameters.width + elements;
    return vec4<f32>(other[at.x], other[at.y], other[at.z], other[at.w]);
}

fn four_products(x: vec4<f32>, rows: mat4x4<f32>) -> vec4<f32> {
    return (x.x * rows[0] + x.y * rows[1]) + (x.z * rows[2] + x.w * rows[3]);
}

fn eight_products(a: vec4<f32>, b: vec4<f32>, first: mat4x4<f32>, last: mat4x4<f32>) -> vec4<f32> {
    return four_products(a, first) + four_products(b, last);
}

fn product_tile(row_first: u32, element_first: u32, thread: vec3<u32>) -> Tile {
    var total: array<vec4<f32>, 8>;
    let lane = thread.x % 8u;
    let row = row_first + row_of(lane, thread);
    let first_element = element_first + column_of(0u, thread);
    let elements = min(first_element + vec4<u32>(0u, 8u, 16u, 24u), vec4<u32>(parameters.width - 1u));
    for (var first = 0u; first < parameters.inner; first += 64u) {
        var sums: array<vec4<f32>, 8>;
        let end = min(first + 64u, parameters.inner);
        for (var k = first; k < end; k += 8u) {
            // Each lane finds the factor of a row; those behind the last count for nothing.
            let own = row_factor(parameters.metric, other_rows[min(k + lane, parameters.inner - 1u)]);
            let factor = select(0.0, own, k + lane < parameters.inner);
            // The language wants the lane as a constant.
            let s0 = slope(row, k + 0u);
            let s1 = slope(row, k + 1u);
            let s2 = slope(row, k + 2u);
            let s3 = slope(row, k + 3u);
            let s4 = slope(row, k + 4u);
            let s5 = slope(row, k + 5u);
            let s6 = slope(row, k + 6u);
            let s7 = slope(row, k + 7u);
            let a = vec4<f32>(s0, s1, s2, s3);
            let b = vec4<f32>(s4, s5, s6, s7);
            let x0 = row_elements(k + 0u, elements) * subgroupBroadcast(factor, 0u);
            let x1 = row_elements(k + 1u, elements) * subgroupBroadcast(factor, 1u);
            let x2 = row_elements(k + 2u, elements) * subgroupBroadcast(factor, 2u);
            let x3 = row_elements(k + 3u, elements) * subgroupBroadcast(factor, 3u);
            let x4 = row_elements(k + 4u, elements) * subgroupBroadcast(factor, 4u);
            let x5 = row_elements(k + 5u, elements) * subgroupBroadcast(factor, 5u);
            let x6 = row_elements(k + 6u, elements) * subgroupBroadcast(factor, 6u);
            let x7 = row_elements(k + 7u, elements) * subgroupBroadcast(factor, 7u);
            let first_four = mat4x4<f32>(x0, x1, x2, x3);
            let last_four = mat4x4<f32>(x4, x5, x6, x7);
            let products = array<vec4<f32>, 8>(
                eight_products(subgroupBroadcast(a, 0u), subgroupBroadcast(b, 0u), first_four, last_four),
                eight_products(subgroupBroadcast(a, 1u), subgroupBroadcast(b, 1u), first_four, last_four),
                eight_products(subgroupBroadcast(a, 2u), subgroupBroadcast(b, 2u), first_four, last_four),
                eight_products(subgroupBroadcast(a, 3u), subgroupBroadcast(b, 3u), first_four, last_four),
                eight_products(subgroupBroadcast(a, 4u), subgroupBroadcast(b, 4u), first_four, last_four),
                eight_products(subgroupBroadcast(a, 5u), subgroupBroadcast(b, 5u), first_four, last_four),
                eight_products(subgroupBroadcast(a, 6u), subgroupBroadcast(b, 6u), first_four, last_four),
                eight_products(subgroupBroadcast(a, 7u), subgroupBroadcast(b, 7u), first_four, last_four),
            );
            for (var i = 0u; i < 8u; i++) {
                sums[i] += products[i];
            }
        }
        for (var i = 0u; i < 8u; i++) {
            total[i] += sums[i];
        }
    }
    return Tile(total);
}
