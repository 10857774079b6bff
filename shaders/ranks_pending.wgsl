// Ranks of keys that wait for their canonical ones: see top_k.wgsl.

/// 2⁻¹⁹, more than is rounded where an edge of magnitude 16 is widened.
const BAND_ROUNDING = 1.9073486328125e-6;

/// Whether a key that passes lies inside the band. Its edges are widened by the error; what lies this far within them does.
fn is_certain(gate: Gate, score: f32) -> bool {
    let widest = 2.0 * bitcast<f32>(gate.units.y) + BAND_ROUNDING;
    return score >= gate.band.y + widest && score <= gate.band.z - widest;
}

/// The smallest rank that a key can have; 0 where it may lie outside the band.
fn rank_of(_row: u32, gate: Gate, score: f32) -> u32 {
    let smallest = ordered(clamp(score, -gate.band.w, gate.band.w) - bitcast<f32>(gate.units.y));
    return select(0u, smallest, is_certain(gate, score));
}
