//! `log Z` of one log-sum and its derivatives, every exponential shifted by the largest logit.

/// HCL on some of a log-sum's candidates: the hard and debiased estimate of their part of `Z`.
pub(super) struct Hcl {
    pub(super) beta: f64,
    pub(super) tau_plus: f64,
    /// The candidate that is the term's positive.
    pub(super) positive: usize,
    /// The candidates whose part of `Z` is replaced.
    pub(super) negatives: Vec<usize>,
}

pub(super) struct LogSum {
    /// `log Z`.
    pub(super) value: f64,
    /// `∂ log Z / ∂ x_j` of each candidate.
    pub(super) slopes: Vec<f64>,
    /// `∂ log Z / ∂ τ` at fixed logits.
    pub(super) temperature_slope: f64,
}

/// The log-sum of at least one logit.
pub(super) fn log_sum(logits: &[f64], temperature: f64, hcl: Option<&Hcl>) -> LogSum {
    match hcl {
        Some(hcl) if !hcl.negatives.is_empty() => with_hcl(logits, temperature, hcl),
        _ => plain(logits),
    }
}

/// The softmax of the logits.
pub(super) fn softmax(logits: &[f64]) -> Vec<f64> {
    plain(logits).slopes
}

fn plain(logits: &[f64]) -> LogSum {
    let shift = largest(logits);
    let exponentials: Vec<f64> = logits.iter().map(|x| (x - shift).exp()).collect();
    let z: f64 = exponentials.iter().sum();
    LogSum { value: shift + z.ln(), slopes: exponentials.iter().map(|e| e / z).collect(), temperature_slope: 0.0 }
}

/// `Z` = the other candidates' sum + `max((R − τ⁺·N·e^{x_p})/(1 − τ⁺), N·e^{−1/τ})`. `R` is homogeneous of degree 1 in
/// the `n_j`, so a common shift goes through, and the weights `n^β / mean(n^β)` do not see one at all.
fn with_hcl(logits: &[f64], temperature: f64, hcl: &Hcl) -> LogSum {
    let shift = largest(logits).max(-1.0 / temperature);
    let n: Vec<f64> = logits.iter().map(|x| (x - shift).exp()).collect();
    let count = hcl.negatives.len() as f64;

    let hardest = hcl.negatives.iter().map(|j| logits[*j]).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = hcl.negatives.iter().map(|j| (hcl.beta * (logits[*j] - hardest)).exp()).collect();
    let mean_weight = weights.iter().sum::<f64>() / count;
    let weights: Vec<f64> = weights.iter().map(|weight| weight / mean_weight).collect();
    let r: f64 = hcl.negatives.iter().zip(&weights).map(|(j, weight)| weight * n[*j]).sum();

    let estimate = (r - hcl.tau_plus * count * n[hcl.positive]) / (1.0 - hcl.tau_plus);
    let floor = count * (-1.0 / temperature - shift).exp();
    let others: f64 = (0..logits.len()).filter(|j| !hcl.negatives.contains(j)).map(|j| n[j]).sum();
    let z = others + estimate.max(floor);

    let mut slopes: Vec<f64> = n.iter().map(|n| n / z).collect();
    let mut temperature_slope = 0.0;
    if estimate >= floor {
        // ∂R/∂x_j, with R = Σ n^{β+1} / M and M = mean(n^β).
        for (j, weight) in hcl.negatives.iter().zip(&weights) {
            let slope = weight * ((hcl.beta + 1.0) * n[*j] - hcl.beta * r / count);
            slopes[*j] = slope / (1.0 - hcl.tau_plus) / z;
        }
        slopes[hcl.positive] -= hcl.tau_plus * count * n[hcl.positive] / (1.0 - hcl.tau_plus) / z;
    } else {
        hcl.negatives.iter().for_each(|j| slopes[*j] = 0.0);
        temperature_slope = floor / (temperature * temperature) / z;
    }
    LogSum { value: shift + z.ln(), slopes, temperature_slope }
}

fn largest(logits: &[f64]) -> f64 {
    logits.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_far_out_do_not_overflow() {
        let sum = log_sum(&[5000.0, 5000.0, -5000.0], 0.005, None);
        assert!((sum.value - 5000.0 - 2_f64.ln()).abs() < 1e-9);
        assert_eq!(sum.slopes, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn hcl_without_concentration_and_prior_is_the_plain_sum() {
        let logits = [0.3, -1.0, 2.0, 0.5];
        let hcl = Hcl { beta: 0.0, tau_plus: 0.0, positive: 0, negatives: vec![1, 2, 3] };
        let (plain, weighted) = (log_sum(&logits, 0.5, None), log_sum(&logits, 0.5, Some(&hcl)));
        assert!((plain.value - weighted.value).abs() < 1e-14);
        for (a, b) in plain.slopes.iter().zip(&weighted.slopes) {
            assert!((a - b).abs() < 1e-14);
        }
    }

    #[test]
    fn hcl_falls_to_its_floor() {
        let hcl = Hcl { beta: 1.0, tau_plus: 0.5, positive: 0, negatives: vec![1, 2] };
        let sum = log_sum(&[2.0, 0.0, 0.0], 0.5, Some(&hcl));
        let expected = (2_f64.exp() + 2.0 * (-2_f64).exp()).ln();
        assert!((sum.value - expected).abs() < 1e-14);
        assert_eq!(sum.slopes[1..], [0.0, 0.0]);
        assert!(sum.temperature_slope > 0.0);
    }
}
