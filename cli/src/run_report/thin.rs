//! Long lines in few points.

use super::chart::Point;

/// Points that one line of a drawing has at most.
const MOST_POINTS: usize = 360;

/// The line with at most about [`MOST_POINTS`] points. Of each stretch its smallest and its largest value stay, in
/// their order, so that a spike of one step is seen.
pub(super) fn thin(points: &[Point]) -> Vec<Point> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    let mut kept = Vec::with_capacity(MOST_POINTS + 2);
    for part in points.chunks(stretch) {
        let by_value = |a: &usize, b: &usize| part[*a].1.total_cmp(&part[*b].1);
        let lowest = (0..part.len()).min_by(by_value).unwrap_or(0);
        let highest = (0..part.len()).max_by(by_value).unwrap_or(0);
        kept.push(part[lowest.min(highest)]);
        if lowest != highest {
            kept.push(part[lowest.max(highest)]);
        }
    }
    kept
}

/// The area with at most [`MOST_POINTS`] steps: of each stretch the mean of both ends.
pub(super) fn thin_area(points: &[(f64, f64, f64)]) -> Vec<(f64, f64, f64)> {
    let stretch = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |part: &[(f64, f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0, 0.0), |sum, at| (sum.0 + at.0, sum.1 + at.1, sum.2 + at.2));
        let count = part.len() as f64;
        (sum.0 / count, sum.1 / count, sum.2 / count)
    };
    let mut kept: Vec<_> = points.chunks(stretch).map(mean).collect();
    // An area of one step has no width; half a step to each side does.
    if let [(x, low, high)] = kept[..] {
        kept = vec![(x - 0.5, low, high), (x + 0.5, low, high)];
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_outlives_thinning() {
        let mut points: Vec<Point> = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        points[54_321].1 = 9.0;
        let kept = thin(&points);
        assert!(kept.len() <= MOST_POINTS + 2);
        assert!(kept.contains(&(54_321.0, 9.0)) && kept.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(thin(&points[..7]), points[..7]);
    }
}
