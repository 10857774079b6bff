// The loop of mainloop.wgsl by threads that multiply for themselves.
//
// Maths: each dot product is summed in chains of CHAIN multiply-adds, in the order of the elements; the chains are
// added in f32, or where COMPENSATED is 1 with what each addition loses.
// Memory: stages of 16 elements of each side go through workgroup memory, rows five vectors apart, so that rows which are
// read together lie in different banks.
// Constants: COMPENSATED, 0 (chains of 64) or 1 (chains of 8).

const STAGE = 4u;
const PITCH = 5u;

var<workgroup> query_stage: array<vec4<f32>, 320>;
var<workgroup> key_stage: array<vec4<f32>, 320>;

/// One row of sums plus the products of four elements.
fn multiply(sum: vec4<f32>, a: vec4<f32>, x: vec4<f32>, y: vec4<f32>, z: vec4<f32>, w: vec4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(a.w), w, fma(vec4<f32>(a.z), z, fma(vec4<f32>(a.y), y, fma(vec4<f32>(a.x), x, sum))));
}

/// What the addition of b to a loses, where the sum was rounded to `sum`.
fn lost(a: vec4<f32>, b: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    let part = sum - a;
    return (a - (sum - part)) + (b - part);
}

/// The tile whose first row and column are these. Rows behind the last repeat it. All threads of the group call it.
fn mainloop(
    first_row: u32,
    first_column: u32,
    rows: u32,
    columns: u32,
    vectors: u32,
    thread: vec3<u32>,
) -> Tile {
    var part0 = vec4<f32>(0.0);
    var part1 = vec4<f32>(0.0);
    var part2 = vec4<f32>(0.0);
    var part3 = vec4<f32>(0.0);
    var total0 = vec4<f32>(0.0);
    var total1 = vec4<f32>(0.0);
    var total2 = vec4<f32>(0.0);
    var total3 = vec4<f32>(0.0);
    var rest0 = vec4<f32>(0.0);
    var rest1 = vec4<f32>(0.0);
    var rest2 = vec4<f32>(0.0);
    var rest3 = vec4<f32>(0.0);

    let index = thread.y * 16u + thread.x;
    let row = index / STAGE;
    let vector = index % STAGE;
    let from_query = min(first_row + row, rows - 1u) * vectors + vector;
    let from_key = min(first_column + row, columns - 1u) * vectors + vector;
    let to = row * PITCH + vector;
    let x_at = thread.y * PITCH;
    let y_at = thread.x * PITCH;

    for (var first = 0u; first < vectors; first += STAGE) {
        workgroupBarrier();
        query_stage[to] = queries[from_query + first];
        key_stage[to] = keys[from_key + first];
        workgroupBarrier();
        for (var v = 0u; v < STAGE; v++) {
            let b0 = key_stage[y_at + v];
            let b1 = key_stage[y_at + 16u * PITCH + v];
            let b2 = key_stage[y_at + 32u * PITCH + v];
            let b3 = key_stage[y_at + 48u * PITCH + v];
            let x = vec4<f32>(b0.x, b1.x, b2.x, b3.x);
            let y = vec4<f32>(b0.y, b1.y, b2.y, b3.y);
            let z = vec4<f32>(b0.z, b1.z, b2.z, b3.z);
            let w = vec4<f32>(b0.w, b1.w, b2.w, b3.w);
            part0 = multiply(part0, query_stage[x_at + v], x, y, z, w);
            part1 = multiply(part1, query_stage[x_at + 16u * PITCH + v], x, y, z, w);
            part2 = multiply(part2, query_stage[x_at + 32u * PITCH + v], x, y, z, w);
            part3 = multiply(part3, query_stage[x_at + 48u * PITCH + v], x, y, z, w);
            if COMPENSATED == 1u && (v & 1u) == 1u {
                let sum0 = total0 + part0;
                let sum1 = total1 + part1;
                let sum2 = total2 + part2;
                let sum3 = total3 + part3;
                rest0 += lost(total0, part0, sum0);
                rest1 += lost(total1, part1, sum1);
                rest2 += lost(total2, part2, sum2);
                rest3 += lost(total3, part3, sum3);
                total0 = sum0;
                total1 = sum1;
                total2 = sum2;
                total3 = sum3;
                part0 = vec4<f32>(0.0);
                part1 = vec4<f32>(0.0);
                part2 = vec4<f32>(0.0);
                part3 = vec4<f32>(0.0);
            }
        }
        if COMPENSATED == 0u && (first & 15u) == 12u {
            total0 += part0;
            total1 += part1;
            total2 += part2;
            total3 += part3;
            part0 = vec4<f32>(0.0);
            part1 = vec4<f32>(0.0);
            part2 = vec4<f32>(0.0);
            part3 = vec4<f32>(0.0);
        }
    }
    // One of the two is zero.
    rest0 += part0;
    rest1 += part1;
    rest2 += part2;
    rest3 += part3;
    return Tile(array<vec4<f32>, 4>(total0 + rest0, total1 + rest1, total2 + rest2, total3 + rest3));
}
