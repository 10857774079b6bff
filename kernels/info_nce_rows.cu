#include "info_nce_common.cuh"

// `gather_rows`: brings rows that are ready, in any order and more than once, next to each other: line i gets row
// `index[list + i]`. The rows at hand are `rows` from `row_first` on; lines with other rows are left alone. One
// workgroup per line.

struct GatherParameters {
    unsigned first_group; unsigned groups_x;
    unsigned list; unsigned lines; unsigned row_first; unsigned rows; unsigned width;
};

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) gather_rows(
    GatherParameters parameters, const unsigned *index, const Four *rows, const Scale *row_scales, Four *lines,
    Scale *line_scales) {
    unsigned line = blockIdx.y * parameters.groups_x + blockIdx.x + parameters.first_group;
    if (line >= parameters.lines) {
        return;
    }
    unsigned row = index[parameters.list + line];
    if (row < parameters.row_first || row >= parameters.row_first + parameters.rows) {
        return;
    }
    size_t source_at = row - parameters.row_first;
    unsigned words = parameters.width / 4u;
    for (unsigned i = threadIdx.x; i < words; i += THREADS_X) {
        lines[(size_t)line * words + i] = rows[source_at * words + i];
    }
    if (threadIdx.x == 0u) {
        line_scales[line] = row_scales[source_at];
    }
}
