//! k-means on the sphere, and how well its clusters agree with labels.

use std::collections::BTreeMap;

use crate::Device;
use crate::error::{Error, Result, try_vec};
use crate::matrix::{Matrix, Rows};
use crate::spec::{Select, TopK};

/// Rows read at once.
const BLOCK_ROWS: usize = 4_096;

/// k-means on normalised rows: a cluster's centre is the normalised sum of its normalised rows, and a row belongs to the
/// centre of the greatest cosine, of equal ones to the first. The first centres are rows drawn by k-means++
/// ([Arthur & Vassilvitskii 2007](https://dl.acm.org/doi/10.5555/1283383.1283494)): each next one with a chance in
/// proportion to its squared distance `2 − 2s` from the nearest centre so far.
///
/// Every decision follows from canonical scores, the seed and f64 sums in the order of the rows, so that the clusters are
/// the same on every device and any number of threads.
///
/// ```
/// use cosmine::{Device, Matrix, sampling::{KMeans, purity}};
/// let rows = Matrix::from_vec(vec![1.0_f32, 0.1, 0.1, 1.0, 1.0, 0.2, 0.2, 1.0], 4, 2)?;
/// let clusters = KMeans::new(2).seed(7).assign(&Device::cpu(), &rows)?;
/// assert_eq!(purity(&clusters, &[5, 8, 5, 8])?, 1.0);
/// # Ok::<(), cosmine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KMeans {
    clusters: usize,
    iterations: usize,
    seed: u64,
}

impl KMeans {
    /// So many clusters, at most 25 iterations, seed 0.
    pub fn new(clusters: usize) -> KMeans {
        KMeans { clusters, iterations: 25, seed: 0 }
    }

    /// Stops after so many rounds where the assignment still changes; 0 leaves the rows at their first centres.
    pub fn iterations(mut self, iterations: usize) -> KMeans {
        self.iterations = iterations;
        self
    }

    /// Draws the first centres by `seed`.
    pub fn seed(mut self, seed: u64) -> KMeans {
        self.seed = seed;
        self
    }

    /// The cluster of each row, below the number of clusters. Where fewer distinct rows exist than clusters, some
    /// clusters stay empty.
    ///
    /// # Errors
    /// [`Error::Spec`] where there is no cluster, or more clusters than rows; as [`Device::top_k`].
    pub fn assign(&self, device: &Device, rows: &dyn Rows) -> Result<Vec<usize>> {
        if self.clusters == 0 || self.clusters > rows.rows() {
            let reason =
                format!("{} clusters of {} rows; between 1 and the number of rows", self.clusters, rows.rows());
            return Err(Error::spec("clusters", reason));
        }
        let mut centres = self.first_centres(device, rows)?;
        let (mut clusters, mut scores) = nearest(device, rows, &centres)?;
        for _ in 0..self.iterations {
            centres = self.means(rows, &clusters, &scores, &centres)?;
            let (next, next_scores) = nearest(device, rows, &centres)?;
            scores = next_scores;
            if next == clusters {
                break;
            }
            clusters = next;
        }
        Ok(clusters)
    }

    fn first_centres(&self, device: &Device, rows: &dyn Rows) -> Result<Matrix<'static>> {
        let count = rows.rows();
        let mut distances = try_vec(1.0_f64, count, "distances from the nearest centre")?;
        let mut data = Vec::new();
        for centre in 0..self.clusters {
            let uniform = self.uniform(centre);
            let row = draw(&distances, uniform).unwrap_or(((uniform * count as f64) as usize).min(count - 1));
            let start = data.len();
            data.extend(rows.read(row..row + 1)?.row(0));
            let chosen = Matrix::view(&data[start..], 1, rows.dim())?;
            let (_, scores) = nearest(device, rows, &chosen)?;
            for (distance, score) in distances.iter_mut().zip(scores) {
                let own = 2.0 - 2.0 * f64::from(score);
                *distance = if centre == 0 { own } else { distance.min(own) };
            }
            distances[row] = 0.0;
        }
        Matrix::from_vec(data, self.clusters, rows.dim())
    }

    /// A number in `[0, 1)` for the choice of a centre.
    fn uniform(&self, centre: usize) -> f64 {
        let [low, high, ..] = Select::philox([centre as u32, (centre >> 32) as u32, 0, 0x6b6d_6561], self.seed);
        ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The normalised means of the clusters. An empty one takes the row that lies farthest from its centre, of equal
    /// ones the first, and no row twice.
    fn means(&self, rows: &dyn Rows, clusters: &[usize], scores: &[f32], old: &Matrix) -> Result<Matrix<'static>> {
        let dim = rows.dim();
        let mut sums = try_vec(0.0_f64, self.clusters * dim, "sums of clusters")?;
        for start in (0..rows.rows()).step_by(BLOCK_ROWS) {
            let block = rows.read(start..rows.rows().min(start + BLOCK_ROWS))?;
            for row in 0..block.rows() {
                let sum = &mut sums[clusters[start + row] * dim..][..dim];
                sum.iter_mut().zip(unit(&block.row(row))).for_each(|(sum, value)| *sum += value);
            }
        }
        let mut taken = vec![false; rows.rows()];
        let mut data = Vec::with_capacity(sums.len());
        for (cluster, sum) in sums.chunks_exact(dim).enumerate() {
            let norm = norm(sum);
            if norm > 0.0 {
                data.extend(sum.iter().map(|value| (value / norm) as f32));
                continue;
            }
            let free = (0..rows.rows()).filter(|row| !taken[*row] && scores[*row] < 1.0);
            match free.min_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b))) {
                Some(row) => {
                    taken[row] = true;
                    data.extend(rows.read(row..row + 1)?.row(0));
                }
                None => data.extend(old.row(cluster)),
            }
        }
        Matrix::from_vec(data, self.clusters, dim)
    }
}

/// For each row the centre of the greatest score, of equal ones the first, and that score.
fn nearest(device: &Device, rows: &dyn Rows, centres: &Matrix) -> Result<(Vec<usize>, Vec<f32>)> {
    let found = device.top_k(&TopK::new(1), rows, centres)?;
    Ok((found.indices.iter().map(|index| *index as usize).collect(), found.scores))
}

/// The row at which the running sum of the distances passes `uniform` of the whole; `None` where all are 0.
fn draw(distances: &[f64], uniform: f64) -> Option<usize> {
    let total: f64 = distances.iter().sum();
    let mut left = uniform * total;
    let mut last = None;
    for (row, distance) in distances.iter().enumerate().filter(|(_, distance)| **distance > 0.0) {
        if left < *distance {
            return Some(row);
        }
        left -= distance;
        last = Some(row);
    }
    last
}

fn norm(values: &[f64]) -> f64 {
    let largest = values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    match largest > 0.0 {
        true => largest * values.iter().map(|value| (value / largest).powi(2)).sum::<f64>().sqrt(),
        false => 0.0,
    }
}

/// The row divided by its norm; zero stays zero.
fn unit(row: &[f32]) -> Vec<f64> {
    let wide: Vec<f64> = row.iter().copied().map(f64::from).collect();
    let norm = norm(&wide);
    wide.iter().map(|value| if norm > 0.0 { value / norm } else { 0.0 }).collect()
}

/// Purity of clusters against labels: the share of rows whose label is the most frequent of their cluster, in `(0, 1]`.
/// It rises with the number of clusters; compare figures of one number only.
///
/// # Errors
/// [`Error::Shape`] where there is not one label per row, or no row.
pub fn purity(clusters: &[usize], labels: &[i64]) -> Result<f64> {
    if clusters.len() != labels.len() || labels.is_empty() {
        let reason = format!("{} labels for {} rows; one each, of one row at least", labels.len(), clusters.len());
        return Err(Error::shape("labels", reason));
    }
    let mut counts: BTreeMap<usize, BTreeMap<i64, u64>> = BTreeMap::new();
    for (cluster, label) in clusters.iter().zip(labels) {
        *counts.entry(*cluster).or_default().entry(*label).or_default() += 1;
    }
    let pure: u64 = counts.values().filter_map(|labels| labels.values().max()).sum();
    Ok(pure as f64 / labels.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_follows_the_distances() {
        let distances = [0.0, 1.0, 0.0, 3.0];
        assert_eq!(draw(&distances, 0.0), Some(1));
        assert_eq!(draw(&distances, 0.2499), Some(1));
        assert_eq!(draw(&distances, 0.25), Some(3));
        assert_eq!(draw(&distances, 1.0), Some(3));
        assert_eq!(draw(&[0.0; 3], 0.5), None);
    }

    #[test]
    fn norms_neither_overflow_nor_vanish() {
        // Powers of two, so that every step is exact.
        for exponent in [-660, 660] {
            let unit = 2_f64.powi(exponent);
            assert_eq!(norm(&[3.0 * unit, 4.0 * unit]), 5.0 * unit);
        }
        assert_eq!((norm(&[0.0; 2]), unit(&[0.0; 2])), (0.0, vec![0.0; 2]));
    }
}
