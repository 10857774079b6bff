// The product of `multiply` for a processor that plays a GPU, where a subgroup is one vector register: see
// mainloop_lanes.wgsl.
//
// Maths: eight products are added in a tree, these sums eight at a time, and these in f32.
// Threads: 16 × 8, in subgroups of eight along x. Thread (x, y) holds rows 8y, … 8y + 7 and elements 4x, … 4x + 3.

const HELD_ROWS = 8u;
const HELD_COLUMNS = 4u;

struct Tile {
    rows: array<vec4<f32>, 8>,
}

@group(0) @binding(1) var<storage, read> slope_vectors: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> other_vectors: array<vec4<f32>>;

fn row_of(i: u32, thread: vec3<u32>) -> u32 {
    return thread.y * 8u + i;
}

fn column_of(j: u32, thread: vec3<u32>) -> u32 {
    return thread.x * 4u + j;
}

fn four_products(x: vec4<f32>, rows: mat4x4<f32>) -> vec4<f32> {
    return (x.x * rows[0] + x.y * rows[1]) + (x.z * rows[2] + x.w * rows[3]);
}

/// dS of eight rows at eight places, two vectors a lane: of its own row, or with TURNED of its own place.
struct Slopes {
    first: vec4<f32>,
    last: vec4<f32>,
}

fn read_slopes(row: u32, k: u32, lane: u32) -> Slopes {
    var at = (row + lane) * parameters.stride + k;
    if (TURNED == 1u) {
        at = (k + lane) * parameters.stride + row;
    }
    return Slopes(slope_vectors[at / 4u], slope_vectors[at / 4u + 1u]);
}

/// The first or last four places of a row, where each lane holds a place of it.
fn turned_four(own: f32, last: bool) -> vec4<f32> {
    if (last) {
        return vec4<f32>(subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u),
            subgroupBroadcast(own, 7u));
    }
    return vec4<f32>(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u),
        subgroupBroadcast(own, 3u));
}

/// Eight rows of the other side at the thread's four elements, times their factors.
struct Others {
    first: mat4x4<f32>,
    last: mat4x4<f32>,
}

fn products_of(a: vec4<f32>, b: vec4<f32>, others: Others) -> vec4<f32> {
    return four_products(a, others.first) + four_products(b, others.last);
}

/// The products of eight rows.
fn products_of_rows(slopes: Slopes, others: Others) -> array<vec4<f32>, 8> {
    let a = slopes.first;
    let b = slopes.last;
    // The language wants the lane as a constant.
    if (TURNED == 1u) {
        return array<vec4<f32>, 8>(
            products_of(turned_four(a.x, false), turned_four(a.x, true), others),
            products_of(turned_four(a.y, false), turned_four(a.y, true), others),
            products_of(turned_four(a.z, false), turned_four(a.z, true), others),
            products_of(turned_four(a.w, false), turned_four(a.w, true), others),
            products_of(turned_four(b.x, false), turned_four(b.x, true), others),
            products_of(turned_four(b.y, false), turned_four(b.y, true), others),
            products_of(turned_four(b.z, false), turned_four(b.z, true), others),
            products_of(turned_four(b.w, false), turned_four(b.w, true), others),
        );
    }
    return array<vec4<f32>, 8>(
        products_of(subgroupBroadcast(a, 0u), subgroupBroadcast(b, 0u), others),
        products_of(subgroupBroadcast(a, 1u), subgroupBroadcast(b, 1u), others),
        products_of(subgroupBroadcast(a, 2u), subgroupBroadcast(b, 2u), others),
        products_of(subgroupBroadcast(a, 3u), subgroupBroadcast(b, 3u), others),
        products_of(subgroupBroadcast(a, 4u), subgroupBroadcast(b, 4u), others),
        products_of(subgroupBroadcast(a, 5u), subgroupBroadcast(b, 5u), others),
        products_of(subgroupBroadcast(a, 6u), subgroupBroadcast(b, 6u), others),
        products_of(subgroupBroadcast(a, 7u), subgroupBroadcast(b, 7u), others),
    );
}

/// Four elements of a row. Rows behind the last repeat it, and count for nothing.
fn other_row(k: u32, element: u32, factor: f32) -> vec4<f32> {
    return other_vectors[(min(k, parameters.inner - 1u) * parameters.width + element) / 4u] * factor;
}

fn product_tile(row_first: u32, element_first: u32, thread: vec3<u32>) -> Tile {
    var total: array<vec4<f32>, 8>;
    let lane = thread.x % 8u;
    let row = row_first + row_of(0u, thread);
    let element = min(element_first + column_of(0u, thread), parameters.width - 4u);
    for (var first = 0u; first < parameters.inner; first += 64u) {
        var sums: array<vec4<f32>, 8>;
        let end = min(first + 64u, parameters.inner);
        for (var k = first; k < end; k += 8u) {
            // Each lane finds the factor of a row; those behind the last count for nothing.
            let found = row_factor(parameters.metric, other_rows[min(k + lane, parameters.inner - 1u)]);
            let factor = select(0.0, found, k + lane < parameters.inner);
            let others = Others(
                mat4x4<f32>(
                    other_row(k, element, subgroupBroadcast(factor, 0u)),
                    other_row(k + 1u, element, subgroupBroadcast(factor, 1u)),
                    other_row(k + 2u, element, subgroupBroadcast(factor, 2u)),
                    other_row(k + 3u, element, subgroupBroadcast(factor, 3u)),
                ),
                mat4x4<f32>(
                    other_row(k + 4u, element, subgroupBroadcast(factor, 4u)),
                    other_row(k + 5u, element, subgroupBroadcast(factor, 5u)),
                    other_row(k + 6u, element, subgroupBroadcast(factor, 6u)),
                    other_row(k + 7u, element, subgroupBroadcast(factor, 7u)),
                ),
            );
            let products = products_of_rows(read_slopes(row, k, lane), others);
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
