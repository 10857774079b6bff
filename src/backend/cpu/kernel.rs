//! The mainloop: `C[r][j] (+)= Σ_i A[i][r] · B[i][j]`, blocks of 12 × 32 held in registers.
//!
//! Every product of this backend has this form: scores (A the packed queries, B the packed keys), and the gradients
//! (A a tile of `dS` or its transpose, B the rows of the other side).

use super::lanes::{Isa, Lanes, PANEL, STRIP, Task};

/// Terms that are summed in registers before the sum is added to the result: short chains round little, long ones cost
/// little.
pub(crate) const CHAIN: usize = 64;
/// How many inner indices ahead the right side is fetched into the first cache.
const PREFETCH_STEPS: usize = 8;

/// The operands of one product. All sizes are multiples of the register block: rows of [`STRIP`], columns of
/// [`PANEL`]; `inner` is free.
pub(crate) struct Product<'a> {
    /// Element `(i, r)` at `r / STRIP · left_strip + i · left_step + r % STRIP`.
    pub(crate) left: &'a [f32],
    /// Distance between strips of 12 rows.
    pub(crate) left_strip: usize,
    /// Distance between inner indices; at least 12.
    pub(crate) left_step: usize,
    /// Element `(i, j)` at `j / PANEL · right_panel + i · right_step + j % PANEL`.
    pub(crate) right: &'a [f32],
    /// Distance between panels of 32 columns.
    pub(crate) right_panel: usize,
    /// Distance between inner indices; at least 32.
    pub(crate) right_step: usize,
    /// Element `(r, j)` at `r · out_step + j`.
    pub(crate) out: &'a mut [f32],
    /// Distance between rows of the result.
    pub(crate) out_step: usize,
    /// Rows of the result, a multiple of 12.
    pub(crate) rows: usize,
    /// Columns of the result, a multiple of 32.
    pub(crate) columns: usize,
    /// Terms of each sum.
    pub(crate) inner: usize,
    /// Whether the sums are added to what `out` holds.
    pub(crate) accumulate: bool,
}

impl Product<'_> {
    /// Computes the product.
    ///
    /// # Panics
    /// Where the operands do not cover the sizes.
    pub(crate) fn run(self, isa: Isa) {
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        assert!(self.rows.is_multiple_of(STRIP) && self.columns.is_multiple_of(PANEL));
        let (last_strip, last_panel) = (self.rows / STRIP - 1, self.columns / PANEL - 1);
        if self.inner > 0 {
            let left_end = last_strip * self.left_strip + (self.inner - 1) * self.left_step + STRIP;
            let right_end = last_panel * self.right_panel + (self.inner - 1) * self.right_step + PANEL;
            assert!(self.left.len() >= left_end && self.right.len() >= right_end);
        }
        assert!(self.out.len() >= (self.rows - 1) * self.out_step + self.columns);
        isa.dispatch(Checked(self));
    }
}

/// A product whose operands were found to cover its sizes.
struct Checked<'a>(Product<'a>);

impl Task for Checked<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Checked(product) = self;
        for strip in 0..product.rows / STRIP {
            let left = product.left[strip * product.left_strip..].as_ptr();
            for panel in 0..product.columns / PANEL {
                let right = product.right[panel * product.right_panel..].as_ptr();
                let out = product.out[strip * STRIP * product.out_step + panel * PANEL..].as_mut_ptr();
                // SAFETY: `Product::run` checked that the operands cover all blocks; `dispatch` vouches for `L`.
                unsafe {
                    match L::TILE_ROWS {
                        12 => block::<L, 12>(&product, left, right, out),
                        6 => block::<L, 6>(&product, left, right, out),
                        _ => block::<L, 4>(&product, left, right, out),
                    }
                }
            }
        }
    }
}

/// One block of 12 × 32, in tiles of `R` rows by two vectors. The operands of a chain stay in the first cache while all tiles
/// take them.
///
/// # Safety
/// The operands must cover the block; the processor must have the set of `L`.
#[inline(always)]
unsafe fn block<L: Lanes, const R: usize>(product: &Product, left: *const f32, right: *const f32, out: *mut f32) {
    let steps = (product.left_step, product.right_step);
    let mut done = 0;
    loop {
        let terms = CHAIN.min(product.inner - done);
        let (left, right) = (left.wrapping_add(done * steps.0), right.wrapping_add(done * steps.1));
        let accumulate = product.accumulate || done > 0;
        for column in (0..PANEL).step_by(2 * L::WIDTH) {
            for row in (0..STRIP).step_by(R) {
                // SAFETY: the tile lies within the block.
                unsafe {
                    let sums = chain::<L, R>(left.wrapping_add(row), right.wrapping_add(column), steps, terms);
                    for (row, sum) in (row..).zip(sums) {
                        for (half, vector) in sum.into_iter().enumerate() {
                            let to = out.add(row * product.out_step + column + half * L::WIDTH);
                            L::store(to, if accumulate { L::add(L::load(to), vector) } else { vector });
                        }
                    }
                }
            }
        }
        done += terms;
        if done == product.inner {
            return;
        }
    }
}

/// The sums of `terms` products for a tile of `R` rows by two vectors. `steps`: the distances between inner indices, left
/// and right.
///
/// # Safety
/// `R` values at each inner index of `left` and two vectors at each of `right` must be readable; the processor must have
/// the set of `L`.
#[inline(always)]
pub(crate) unsafe fn chain<L: Lanes, const R: usize>(
    mut left: *const f32,
    mut right: *const f32,
    steps: (usize, usize),
    terms: usize,
) -> [[L::Vector; 2]; R] {
    // SAFETY: the caller vouches for the memory and for the set; prefetching asks for no memory.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; R];
        for _ in 0..terms {
            L::prefetch(right.wrapping_add(PREFETCH_STEPS * steps.1));
            let columns = [L::load(right), L::load(right.add(L::WIDTH))];
            for (row, sum) in sums.iter_mut().enumerate() {
                let x = L::splat(*left.add(row));
                sum[0] = L::mul_add(x, columns[0], sum[0]);
                sum[1] = L::mul_add(x, columns[1], sum[1]);
            }
            left = left.wrapping_add(steps.0);
            right = right.wrapping_add(steps.1);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_multiplies() {
        let (rows, columns, inner) = (24, 64, 7);
        let left: Vec<f32> = (0..rows * inner).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
        let right: Vec<f32> = (0..columns * inner).map(|i| ((i * 53) % 13) as f32 - 6.0).collect();
        for isa in Isa::available() {
            let mut out = vec![1.0; rows * columns];
            let product = Product {
                left: &left,
                left_strip: STRIP * inner,
                left_step: STRIP,
                right: &right,
                right_panel: PANEL,
                right_step: columns,
                out: &mut out,
                out_step: columns,
                rows,
                columns,
                inner,
                accumulate: true,
            };
            product.run(isa);
            for r in 0..rows {
                for j in 0..columns {
                    let sum: f32 = (0..inner)
                        .map(|i| left[r / STRIP * STRIP * inner + i * STRIP + r % STRIP] * right[i * columns + j])
                        .sum();
                    assert_eq!(out[r * columns + j], sum + 1.0, "{} at {r}, {j}", isa.name());
                }
            }
        }
    }
}
