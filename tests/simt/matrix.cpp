// The matrix units: mma.sync for a warp, and wgmma, which reads shared memory by descriptor when it is waited for.
#include <bit>
#include <cstring>

#include "races.hpp"
#include "runtime.hpp"

#pragma GCC optimize("O3")

namespace simt {

float widen(u16 bits, int elements) {
    if (elements == BF16) return std::bit_cast<float>((u32)bits << 16);
    return (float)std::bit_cast<_Float16>(bits);
}

// Tensor cores add products exactly aligned to the largest exponent, and cut off what lies further below.
static void add_block(float* c, const float* a, const float* b, u32 columns, u32 terms) {
    constexpr u32 LANES = 8;
    for (u32 first = 0; first < columns; first += LANES) {
        float product[9][LANES];
        u32 largest[LANES] = {};
        for (u32 j = 0; j < LANES; j++) product[terms][j] = c[first + j];
        for (u32 k = 0; k < terms; k++)
            for (u32 j = 0; j < LANES; j++) product[k][j] = a[k] * b[k * columns + first + j];
        for (u32 k = 0; k <= terms; k++)
            for (u32 j = 0; j < LANES; j++) {
                u32 magnitude = std::bit_cast<u32>(product[k][j]) & 0x7fffffff;
                largest[j] = largest[j] > magnitude ? largest[j] : magnitude;
            }
        bool finite = true;
        float scale[LANES], unit[LANES];
        for (u32 j = 0; j < LANES; j++) {
            u32 exponent = largest[j] >> 23;
            finite &= exponent < 255;
            exponent = exponent < 26 ? 26 : exponent > 252 ? 252 : exponent;
            scale[j] = std::bit_cast<float>((127 + 24 + 127 - exponent) << 23);  // the largest becomes 2^24 to 2^25
            unit[j] = std::bit_cast<float>((exponent - 24) << 23);
        }
        int sum[LANES] = {};
        for (u32 k = 0; k <= terms; k++)
            for (u32 j = 0; j < LANES; j++) sum[j] += (int)(product[k][j] * scale[j]);
        for (u32 j = 0; j < LANES; j++) {
            u64 bits = std::bit_cast<u64>((double)sum[j]) & ~0x1fffffffull;  // towards zero, to 24 bits
            c[first + j] = (float)(std::bit_cast<double>(bits) * (double)unit[j]);
        }
        if (!finite)
            for (u32 j = 0; j < LANES; j++) {
                float plain = product[terms][j];
                for (u32 k = 0; k < terms; k++) plain += product[k][j];
                c[first + j] = plain;
            }
    }
}

void multiply_add(float* c, const float* a, const float* b, u32 rows, u32 columns, u32 depth) {
    for (u32 i = 0; i < rows; i++)
        for (u32 k = 0; k < depth; k += 8) add_block(c + i * columns, a + i * depth + k, b + k * columns, columns, 8);
}

static void multiply_add(int* c, const signed char* a, const signed char* b, u32 rows, u32 columns, u32 depth) {
    for (u32 i = 0; i < rows; i++)
        for (u32 k = 0; k < depth; k++)
            for (u32 j = 0; j < columns; j++) c[i * columns + j] = (int)((u32)c[i * columns + j] + (u32)(a[i * depth + k] * b[k * columns + j]));
}

namespace {

struct Mma {
    void* c;
    const u32* a;
    u32 b[2];
};

template <int ELEMENTS> void mma_floats(u32, void* const* brought) {
    float a[16 * 16], b[16 * 8], c[16 * 8];
    for (u32 lane = 0; lane < WARP; lane++) {
        auto& mine = *(Mma*)brought[lane];
        u32 group = lane / 4, pair = lane % 4;
        for (u32 i = 0; i < 8; i++)
            a[(group + (i / 2 & 1) * 8) * 16 + 2 * pair + (i & 1) + (i / 4) * 8] = widen((u16)(mine.a[i / 2] >> (16 * (i & 1))), ELEMENTS);
        for (u32 i = 0; i < 4; i++) b[(2 * pair + (i & 1) + (i / 2) * 8) * 8 + group] = widen((u16)(mine.b[i / 2] >> (16 * (i & 1))), ELEMENTS);
        for (u32 i = 0; i < 4; i++) c[(group + i / 2 * 8) * 8 + 2 * pair + (i & 1)] = ((float*)mine.c)[i];
    }
    multiply_add(c, a, b, 16, 8, 16);
    for (u32 lane = 0; lane < WARP; lane++)
        for (u32 i = 0; i < 4; i++) ((float*)((Mma*)brought[lane])->c)[i] = c[(lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + (i & 1)];
}

void mma_bytes(u32, void* const* brought) {
    signed char a[16 * 32], b[32 * 8];
    int c[16 * 8];
    for (u32 lane = 0; lane < WARP; lane++) {
        auto& mine = *(Mma*)brought[lane];
        u32 group = lane / 4, quad = lane % 4;
        for (u32 i = 0; i < 16; i++)
            a[(group + (i / 4 & 1) * 8) * 32 + 4 * quad + (i & 3) + (i / 8) * 16] = (signed char)(mine.a[i / 4] >> (8 * (i & 3)));
        for (u32 i = 0; i < 8; i++) b[(4 * quad + (i & 3) + (i / 4) * 16) * 8 + group] = (signed char)(mine.b[i / 4] >> (8 * (i & 3)));
        for (u32 i = 0; i < 4; i++) c[(group + i / 2 * 8) * 8 + 2 * quad + (i & 1)] = ((int*)mine.c)[i];
    }
    multiply_add(c, a, b, 16, 8, 32);
    for (u32 lane = 0; lane < WARP; lane++)
        for (u32 i = 0; i < 4; i++) ((int*)((Mma*)brought[lane])->c)[i] = c[(lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + (i & 1)];
}

// A matrix in shared memory, by the descriptor of the PTX ISA.
struct Described {
    u64 start, leading, stride;
    u32 row_bytes, swizzle;  // row_bytes: of a row of the swizzled pattern; 16 without one

    explicit Described(u64 bits) {
        start = (bits & 0x3fff) << 4;
        leading = (bits >> 16 & 0x3fff) << 4;
        stride = (bits >> 32 & 0x3fff) << 4;
        u32 mode = bits >> 62 & 3;
        row_bytes = mode == 0 ? 16 : mode == 1 ? 128 : mode == 2 ? 64 : 32;
        swizzle = mode == 0 ? 0 : mode == 1 ? 7 : mode == 2 ? 3 : 1;
    }

    // Of the element at `byte` bytes along the contiguous side and `line` across it.
    u64 address(u32 byte, u32 line, bool k_major) const {
        u64 at = start + line % 8 * row_bytes + byte % row_bytes;
        // In K-major layouts lines are rows of the matrix: a pattern of eight, then the stride.
        if (k_major) at += line / 8 * stride + byte / row_bytes * (swizzle ? row_bytes : leading);
        else if (swizzle) at += line / 8 * stride + byte / row_bytes * leading;
        else at += line / 8 * leading + byte / row_bytes * stride;
        return at ^ ((at >> 7 & swizzle) << 4);
    }
};

u64 fetch(const Described& matrix, u32 outer, u32 k, bool transposed, u32 element_bytes, const void* code) {
    u64 offset = transposed ? matrix.address(outer * element_bytes, k, false) : matrix.address(k * element_bytes, outer, true);
    u64 address = (u64)self().shared + offset;
    shared_read_by_unit(address, element_bytes, code);
    return element_bytes == 1 ? *(u8*)address : *(u16*)address;
}

// One warp's 16 rows of a multiplication, onto its sums.
void land(Warp& warp, const Multiplication& op, const void* code) {
    Described a(op.a), b(op.b);
    u32 first_row = warp.index % 4 * 16, n = op.columns, bytes = op.elements == I8 ? 1 : 2, depth = 32 / bytes;
    auto& sums = warp.batches.sums[op.d[0]];
    static thread_local std::vector<float> a_floats, b_floats, c_floats;
    static thread_local std::vector<signed char> a_bytes, b_bytes;
    auto fill = [&](auto& to_a, auto& to_b, auto convert) {
        to_a.resize(16 * depth);
        to_b.resize(depth * n);
        for (u32 i = 0; i < 16; i++)
            for (u32 k = 0; k < depth; k++) to_a[i * depth + k] = convert(fetch(a, first_row + i, k, op.a_transposed, bytes, code));
        for (u32 k = 0; k < depth; k++)
            for (u32 j = 0; j < n; j++) to_b[k * n + j] = convert(fetch(b, j, k, op.b_transposed, bytes, code));
    };
    static thread_local std::vector<u32> c;
    c.assign(16 * n, 0);
    auto place = [&](u32 lane, u32 i) { return (lane / 4 + (i / 2 & 1) * 8) * n + i / 4 * 8 + 2 * (lane % 4) + (i & 1); };
    if (op.accumulate)
        for (u32 lane = 0; lane < WARP; lane++)
            for (u32 i = 0; i < n / 2; i++) c[place(lane, i)] = sums[lane * (n / 2) + i];
    if (op.elements == I8) {
        fill(a_bytes, b_bytes, [](u64 bits) { return (signed char)bits; });
        multiply_add((int*)c.data(), a_bytes.data(), b_bytes.data(), 16, n, depth);
    } else {
        fill(a_floats, b_floats, [&](u64 bits) { return widen((u16)bits, op.elements); });
        multiply_add((float*)c.data(), a_floats.data(), b_floats.data(), 16, n, depth);
    }
    for (u32 lane = 0; lane < WARP; lane++)
        for (u32 i = 0; i < n / 2; i++) sums[lane * (n / 2) + i] = c[place(lane, i)];
}

struct Issued {
    Multiplication op;
    u32* d;
    const void* code;
};

void issue(u32, void* const* brought) {
    Warp& warp = *self().warp;
    Batches& batches = warp.batches;
    auto& first = *(Issued*)brought[0];
    Multiplication op = first.op;
    if (!batches.fenced) fail(Fault::CHECK, first.code, "wgmma without wgmma.fence since the last batch");
    if (warp.block->threads < (warp.index / 4 + 1) * 128) fail(Fault::CHECK, first.code, "wgmma in an incomplete warpgroup");
    for (u32 lane = 0; lane < WARP; lane++) {
        auto& each = *(Issued*)brought[lane];
        if (each.op.a != op.a || each.op.b != op.b || each.op.accumulate != op.accumulate)
            fail(Fault::CHECK, first.code, "wgmma: lane %u brings other descriptors than lane 0", lane);
        op.d[lane] = each.d;
    }
    u32 count = op.columns / 2;
    auto& sums = batches.sums[op.d[0]];
    if (sums.empty()) {  // else they are under way already
        sums.resize(WARP * count);
        for (u32 lane = 0; lane < WARP; lane++) {
            memcpy(sums.data() + lane * count, op.d[lane], 4 * count);
            memset(op.d[lane], 0xff, 4 * count);
        }
    }
    batches.open.push_back(op);
}

// wgmma is the work of a warpgroup: a batch is done when all four warps have committed it, and for all four at once.
void wait_for_batches(Batches& batches, Warp& warp, u32 pending, const void* code) {
    u64 target = batches.count > pending ? batches.count - pending : 0;
    Warp* four = &warp.block->warps[warp.index & ~3u];
    for (Warp* each = four; each < four + 4; each++)
        while (each->batches.count < target) {
            each->batches.waiting.push_back(&self());
            wait_here("wgmma.wait_group", 0, code);
        }
    for (Warp* each = four; each < four + 4; each++)
        for (; each->batches.landed < target; each->batches.landed++) {
            for (auto& op : each->batches.committed.front()) land(*each, op, code);
            each->batches.committed.pop_front();
            tell(each->batches.reads, self());
        }
    for (Warp* each = four; each < four + 4; each++) learn(self(), each->batches.reads);
    // Accumulators that nothing is under way for come back.
    std::map<u32*, const Multiplication*> busy;
    for (auto& batch : batches.committed)
        for (auto& op : batch) busy[op.d[0]] = &op;
    for (auto& op : batches.open) busy[op.d[0]] = &op;
    for (auto it = batches.sums.begin(); it != batches.sums.end();) {
        if (busy.count(it->first)) { ++it; continue; }
        u32 count = (u32)it->second.size() / WARP;
        for (u32 lane = 0; lane < WARP; lane++) {
            auto distance = (u8*)it->first - (u8*)warp.block->thread[warp.index * WARP];
            memcpy((u8*)warp.block->thread[warp.index * WARP + lane] + distance, it->second.data() + lane * count, 4 * count);
        }
        it = batches.sums.erase(it);
    }
}

struct Wait {
    u32 pending;
    const void* code;
};

}  // namespace

}  // namespace simt

using namespace simt;

extern "C" {

void simt_mma(int elements, void* c, const u32* a, u32 b0, u32 b1) {
    Mma mine{c, a, {b0, b1}};
    Collective run = elements == F16 ? mma_floats<F16> : elements == BF16 ? mma_floats<BF16> : mma_bytes;
    simt_collective(~0u, "mma.sync", 0, run, &mine, false);
}

void simt_wgmma(int elements, void* d, u32 columns, u64 a, u64 b, bool accumulate, bool a_transposed, bool b_transposed) {
    Issued mine{{a, b, columns, elements, accumulate, a_transposed, b_transposed, {}}, (u32*)d, __builtin_return_address(0)};
    simt_collective(~0u, "wgmma.mma_async", 0, issue, &mine, false);
}

void simt_wgmma_fence() {
    simt_collective(~0u, "wgmma.fence", 0, [](u32, void* const*) { self().warp->batches.fenced = true; }, nullptr, false);
}

void simt_wgmma_commit() {
    simt_collective(~0u, "wgmma.commit_group", 0, [](u32, void* const*) {
        Batches& batches = self().warp->batches;
        batches.committed.push_back(std::move(batches.open));
        batches.open.clear();
        batches.fenced = false;
        batches.count++;
        for (Thread* thread : batches.waiting) make_ready(thread);
        batches.waiting.clear();
    }, nullptr, false);
}

void simt_wgmma_wait(u32 pending) {
    Wait mine{pending, __builtin_return_address(0)};
    simt_collective(~0u, "wgmma.wait_group", 0, [](u32, void* const* brought) {
        Warp& warp = *self().warp;
        wait_for_batches(warp.batches, warp, ((Wait*)brought[0])->pending, ((Wait*)brought[0])->code);
    }, &mine, true);  // the lanes go on together
}

}
