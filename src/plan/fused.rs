//! Where the gradients of `info_nce` are made in registers of a matrix unit.

/// The most elements of such a row. The sums of a tile's rows stay in registers beside the tile, 64 a thread for 128
/// elements; the assembler's report shows no spill up to here. Longer rows write dS for a product of its own: what that
/// costs is spread over more elements, and scoring a third time, which this takes, costs more.
pub(crate) const MOST_FUSED_DIM: u32 = 128;

/// Whether rows of `dim` elements have their gradients made in registers, where those of up to `most` do.
pub(crate) fn is_fused(dim: usize, most: u32) -> bool {
    dim <= most.min(MOST_FUSED_DIM) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_rows_are_fused() {
        assert!(is_fused(1, MOST_FUSED_DIM) && is_fused(128, MOST_FUSED_DIM));
        assert!(!is_fused(129, MOST_FUSED_DIM) && !is_fused(65, 64) && !is_fused(1, 0));
        assert!(!is_fused(200, 1000));
    }
}
