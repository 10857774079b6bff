//! Where `top_k` on a processor that plays a GPU gives every key its canonical score at once.

/// Keys for each that is wanted, at most. On Mesa's software Vulkan with f32 rows a call took a fifth less time where an
/// eighth of the keys was wanted. A canonical score of f32 takes four products where the scan takes one; but what a
/// scan lets pass is scored apart, so that nothing that is read serves twice.
const MOST_KEYS_PER_WANTED: usize = 8;
/// Mesa's software driver ends the loops of a shader after 65,535 rounds in all; a canonical tile takes a quarter as many
/// as its rows have elements.
const MOST_DIM: usize = 1 << 16;

/// Whether so many of the keys are `wanted` for each query that scoring all of them canonically, tile by tile, costs less
/// than a scan and scores of those that pass.
pub(crate) fn scores_all(wanted: usize, keys: usize, dim: usize) -> bool {
    wanted > 0 && keys / wanted <= MOST_KEYS_PER_WANTED && dim <= MOST_DIM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_share_of_the_keys_is_scored_with_all_others() {
        assert!(scores_all(256, 1024, 768) && scores_all(5, 3, 8) && scores_all(1, 5, 1));
        assert!(!scores_all(16, 1024, 768) && !scores_all(256, 4096, 384) && !scores_all(0, 3, 8));
        assert!(!scores_all(256, 1024, MOST_DIM + 1));
    }
}
