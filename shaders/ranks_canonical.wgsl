// Ranks of keys whose scores are canonical dot products times both inverse norms: the canonical ranks. See top_k.wgsl.

/// Whether a key is certain to lie inside the band: asked for draws alone, which have no canonical scan.
fn is_certain(_gate: Gate, _score: f32) -> bool {
    return false;
}

/// The canonical rank of a key; 0 where it lies outside the band.
fn rank_of(row: u32, _gate: Gate, score: f32) -> u32 {
    let rank = ordered(clamp(score, -1.0, 1.0));
    let band = gates[row * GATE_VECTORS + 4u];
    return select(0u, rank, rank >= band.x && rank <= band.y);
}
