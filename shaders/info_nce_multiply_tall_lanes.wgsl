// The product of `multiply` for a processor that plays a GPU, where a subgroup is one vector register: see
// mainloop_tall_lanes.wgsl. What a lane has read of the other side serves 32 rows.
//
// Maths: eight products are added in a tree, these sums eight at a time, and these in f32.
// Memory: by wide.wgsl dS as `queries`, the other side as `keys`.
// Threads: 16 × 2, in subgroups of eight along x. Thread (x, y) holds rows 32y, … 32y + 31 and elements 4x, … 4x + 3.

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
    return Slopes(query_vector(at / 4u), query_vector(at / 4u + 1u));
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
    return key_vector((min(k, parameters.inner - 1u) * parameters.width + element) / 4u) * factor;
}

/// Eight rows of the other side from row k on. Each lane finds the factor of one; those behind the last count for nothing.
fn others_at(k: u32, element: u32, lane: u32) -> Others {
    let found = row_factor(parameters.metric, other_rows[min(k + lane, parameters.inner - 1u)]);
    let factor = select(0.0, found, k + lane < parameters.inner);
    return Others(
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
}

fn put_rows(row: u32, element: u32, rows: array<vec4<f32>, 8>) {
    var all = rows;
    for (var i = 0u; i < 8u; i++) {
        for (var j = 0u; j < 4u; j++) {
            put_product(row + i, element + j, all[i][j]);
        }
    }
}

fn multiply_tile(row_first: u32, element_first: u32, thread: vec3<u32>) {
    var total0: array<vec4<f32>, 8>;
    var total1: array<vec4<f32>, 8>;
    var total2: array<vec4<f32>, 8>;
    var total3: array<vec4<f32>, 8>;
    let lane = thread.x % 8u;
    let row = row_first + thread.y * 32u;
    let element = min(element_first + thread.x * 4u, parameters.width - 4u);
    for (var first = 0u; first < parameters.inner; first += 64u) {
        var sums0: array<vec4<f32>, 8>;
        var sums1: array<vec4<f32>, 8>;
        var sums2: array<vec4<f32>, 8>;
        var sums3: array<vec4<f32>, 8>;
        let end = min(first + 64u, parameters.inner);
        for (var k = first; k < end; k += 8u) {
            let others = others_at(k, element, lane);
            let products0 = products_of_rows(read_slopes(row, k, lane), others);
            for (var i = 0u; i < 8u; i++) {
                sums0[i] += products0[i];
            }
            let products1 = products_of_rows(read_slopes(row + 8u, k, lane), others);
            for (var i = 0u; i < 8u; i++) {
                sums1[i] += products1[i];
            }
            let products2 = products_of_rows(read_slopes(row + 16u, k, lane), others);
            for (var i = 0u; i < 8u; i++) {
                sums2[i] += products2[i];
            }
            let products3 = products_of_rows(read_slopes(row + 24u, k, lane), others);
            for (var i = 0u; i < 8u; i++) {
                sums3[i] += products3[i];
            }
        }
        for (var i = 0u; i < 8u; i++) {
            total0[i] += sums0[i];
            total1[i] += sums1[i];
            total2[i] += sums2[i];
            total3[i] += sums3[i];
        }
    }
    // Elements behind the last are nobody's, wherever they were read.
    let place = element_first + thread.x * 4u;
    put_rows(row, place, total0);
    put_rows(row + 8u, place, total1);
    put_rows(row + 16u, place, total2);
    put_rows(row + 24u, place, total3);
}
