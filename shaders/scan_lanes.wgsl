// What epilogues of the scan share on a processor that plays a GPU, which runs what is behind an `if` for all lanes
// whether any of them wants it, and reads and writes memory lane by lane: see mainloop_lanes.wgsl. Rows are vectors of
// four columns here, and what is rare stands in loops that seldom begin.

// One bit for each score of the thread, row by row: keys that lists exclude.
var<private> struck: u32;

/// What the thread's four columns are to all rows.
struct Across {
    columns: vec4<u32>,
    factors: vec4<f32>,
    groups: vec4<u32>,
    there: vec4<bool>,
}

fn across_tile(first_column: u32, thread: vec3<u32>) -> Across {
    var across: Across;
    for (var j = 0u; j < HELD_COLUMNS; j++) {
        let column = first_column + column_of(j, thread);
        let words = columns[min(column, parameters.end - 1u)];
        across.columns[j] = column;
        across.factors[j] = bitcast<f32>(words.x);
        across.groups[j] = words.y;
        across.there[j] = column < parameters.end && words.x != NO_KEY;
    }
    return across;
}

fn bits_of(marks: vec4<bool>) -> u32 {
    let bits = select(vec4<u32>(0u), vec4<u32>(1u, 2u, 4u, 8u), marks);
    return (bits.x | bits.y) | (bits.z | bits.w);
}

fn marks_of(bits: u32) -> vec4<bool> {
    return (vec4<u32>(bits) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>(0u);
}

fn sum_of(marks: vec4<bool>) -> u32 {
    let ones = select(vec4<u32>(0u), vec4<u32>(1u), marks);
    return (ones.x + ones.y) + (ones.z + ones.w);
}

/// Strikes out what the rows' lists hold of the thread's columns. `is_row`: whether the lane reads a row of the chunk.
fn strike_lists(is_row: bool, first_key: u32, thread: vec3<u32>) {
    struck = 0u;
    if LISTS == 0u {
        return;
    }
    let lane = thread.x % 8u;
    let bounds = list_bounds[row_of(lane, thread)];
    let end = select(0u, bounds.y, is_row);
    var at = bounds.x;
    while subgroupAny(at < end) {
        var place = NO_KEY;
        if at < end {
            place = tables[at] - first_key;
        }
        at += 1u;
        for (var i = 0u; i < 8u; i++) {
            let of_row = subgroupShuffle(place, i);
            // The tile's columns in the order of column_of.
            if of_row / 32u == thread.x / 8u && of_row % 8u == lane {
                struck |= 1u << (4u * i + of_row / 8u % 4u);
            }
        }
    }
}

/// Which of the thread's columns a query may have. `own` and `largest` are words of the query's gate.
fn held_of(i: u32, across: Across, own: vec4<u32>, largest: f32) -> vec4<bool> {
    let own_key = (across.columns + vec4<u32>(parameters.base)) == vec4<u32>(own.x);
    let excluded = own_key | (across.groups == vec4<u32>(own.y)) | marks_of(struck >> (4u * i));
    return across.there & !excluded & vec4<bool>(largest != 0.0);
}
