// The product of `multiply`, through workgroup memory. info_nce_multiply_tall_lanes.wgsl is the same for software devices.
//
// Threads: 16 × 16. Thread (x, y) holds 4 rows × 4 elements.

const HELD_ROWS = 4u;
const HELD_COLUMNS = 4u;
const DEPTH: u32 = 16u;

var<workgroup> slope_tile: array<f32, 1024>;
var<workgroup> row_tile: array<f32, 1024>;

struct Tile {
    rows: array<vec4<f32>, 4>,
}

fn row_of(i: u32, thread: vec3<u32>) -> u32 {
    return thread.y * 4u + i;
}

fn column_of(j: u32, thread: vec3<u32>) -> u32 {
    return thread.x * 4u + j;
}

fn product_tile(row_first: u32, element_first: u32, thread: vec3<u32>) -> Tile {
    var total: array<vec4<f32>, 4>;
    var chain: array<vec4<f32>, 4>;
    let id = thread.y * 16u + thread.x;
    for (var first = 0u; first < parameters.inner; first += DEPTH) {
        workgroupBarrier();
        for (var i = 0u; i < 4u; i++) {
            if (TURNED == 1u) {
                // Neighbours read neighbouring columns of dS.
                let k = id / 64u + 4u * i;
                let row = id % 64u;
                slope_tile[k * TILE + row] = slopes[(first + k) * parameters.stride + row_first + row];
            } else {
                let k = id % 16u;
                let row = id / 16u + 16u * i;
                slope_tile[k * TILE + row] = slopes[(row_first + row) * parameters.stride + first + k];
            }
            let k = id / 64u + 4u * i;
            let element = element_first + id % 64u;
            var value = 0.0;
            if (element < parameters.width && first + k < parameters.inner) {
                let factor = row_factor(parameters.metric, other_rows[first + k]);
                value = factor * other[(first + k) * parameters.width + element];
            }
            row_tile[k * TILE + id % 64u] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let at = k * TILE + thread.y * 4u;
            let across = k * TILE + thread.x * 4u;
            let b = vec4<f32>(row_tile[across], row_tile[across + 1u], row_tile[across + 2u], row_tile[across + 3u]);
            chain[0] += slope_tile[at] * b;
            chain[1] += slope_tile[at + 1u] * b;
            chain[2] += slope_tile[at + 2u] * b;
            chain[3] += slope_tile[at + 3u] * b;
        }
        if (first % 64u == 48u || first + DEPTH >= parameters.inner) {
            for (var r = 0u; r < 4u; r++) {
                total[r] += chain[r];
                chain[r] = vec4<f32>(0.0);
            }
        }
    }
    return Tile(total);
}

fn multiply_tile(row_first: u32, element_first: u32, thread: vec3<u32>) {
    let tile = product_tile(row_first, element_first, thread);
    for (var i = 0u; i < HELD_ROWS; i++) {
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            put_product(row_first + row_of(i, thread), element_first + column_of(j, thread), tile.rows[i][j]);
        }
    }
}
