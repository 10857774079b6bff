//! Each operation on rows of the host, beside the same from scores that are brought to the host, in turns.

use cosmine::spec::{Cosine, Histogram, InfoNce, Positives, Select, TopK};
use cosmine::{Counts, Device, Dtype, Gradients, Loss, Matrix, Neighbours, Rule};
use serde_json::{Value, json};

use crate::{Failure, Shape, data, median, peer, timed};

/// The rules that one who has scores counts.
pub(crate) const RULES: [Rule; 4] = [Rule::BelowBand, Rule::AboveBand, Rule::Margin, Rule::Ratio];

/// What an operation answers.
pub(crate) enum Answer {
    Scores,
    /// Key indices by score, `rows × k`, −1 behind the last; what rules reject.
    Keys {
        k: usize,
        indices: Vec<i64>,
        rejected: Vec<[u64; 4]>,
    },
    Counts(Vec<u64>),
    /// Numbers that are near each other: the loss and all that belongs to it.
    Numbers(Vec<Vec<f32>>),
}

impl Answer {
    fn of_neighbours(found: Neighbours) -> Answer {
        let counted = found.rejected.iter().flatten();
        let rejected = counted.map(|rejected| RULES.map(|rule| rejected.get(rule))).collect();
        Answer::Keys { k: found.k, indices: found.indices, rejected }
    }

    fn of_counts(found: Counts) -> Answer {
        Answer::Counts([found.below, found.counts, found.above].concat())
    }

    pub(crate) fn of_loss(loss: Loss, gradients: Option<Gradients>) -> Answer {
        let statistics = loss.statistics;
        let mut all = vec![vec![loss.loss], loss.rows, statistics.positive, statistics.hardest_negative];
        all.extend([statistics.mean_negative, statistics.entropy, loss.key_influence]);
        all.extend(gradients.into_iter().flat_map(|found| [found.queries, found.keys, vec![found.temperature]]));
        Answer::Numbers(all)
    }

    /// How far two answers lie apart, in words. Wrong ones are an error.
    fn compared(&self, other: &Answer) -> Result<String, Failure> {
        match (self, other) {
            (Answer::Scores, Answer::Scores) => Ok(String::new()),
            (Answer::Keys { k, indices, rejected }, Answer::Keys { indices: others, rejected: counted, .. }) => {
                let rows = indices.chunks(*k).zip(others.chunks(*k));
                let apart: usize = rows.map(|(own, other)| own.iter().filter(|key| !other.contains(key)).count()).sum();
                let counts = rejected.iter().flatten().zip(counted.iter().flatten());
                let miscounted: u64 = counts.map(|(own, other)| own.abs_diff(*other)).sum();
                if apart * 100 > indices.len() || miscounted as usize > rejected.len() || counted.len() < rejected.len()
                {
                    return Err(format!("{apart} ids and {miscounted} counts differ").into());
                }
                Ok(format!("{apart} of {} ids and {miscounted} counts differ", indices.len()))
            }
            (Answer::Counts(own), Answer::Counts(other)) => {
                let apart: u64 = own.iter().zip(other).map(|(own, other)| own.abs_diff(*other)).sum();
                let all: u64 = own.iter().sum();
                match own.len() == other.len() && apart * 1000 <= all {
                    true => Ok(format!("{} of {all} scores are counted in another bin", apart / 2)),
                    false => Err(format!("{apart} of {all} counts differ").into()),
                }
            }
            (Answer::Numbers(own), Answer::Numbers(other)) => {
                let apart = own.iter().zip(other).map(|(own, other)| relative_distance(own, other)).fold(0.0, f32::max);
                match own.len() == other.len() && apart < 1e-4 {
                    true => Ok(format!("numbers differ by {apart:.0e}")),
                    false => Err(format!("numbers differ by {apart:e}").into()),
                }
            }
            _ => Err("answers of different kinds".into()),
        }
    }
}

/// The largest difference, as a share of the largest number.
fn relative_distance(own: &[f32], other: &[f32]) -> f32 {
    if own.len() != other.len() {
        return f32::INFINITY;
    }
    let largest = own.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    own.iter().zip(other).map(|(own, other)| (own - other).abs()).fold(0.0, f32::max) / largest
}

type Work<'a> = Box<dyn FnMut() -> Result<Answer, Failure> + 'a>;

/// An operation, and what somebody does who has its scores.
struct Operation<'a> {
    name: &'static str,
    ours: Work<'a>,
    peer: Work<'a>,
}

/// Measures the operations whose name holds `name`; gives their times and ratios.
pub(crate) fn run(device: &Device, shape: Shape, name: &str, rounds: usize) -> Result<Value, Failure> {
    let [rows, keys, dim] = shape;
    let queries = data::rows(data::Kind::Gaussian, rows, dim, Dtype::F32, 1);
    let keys = data::rows(data::Kind::Gaussian, keys, dim, Dtype::F32, 2);
    let scores = std::cell::RefCell::new(vec![0.0; rows * keys.rows()]);
    let host = peer::Peer { device, queries: &queries, keys: &keys, scores: &scores };
    let mut operations = all(device, &queries, &keys, &host);
    operations.retain(|operation| operation.name == "cosine" || operation.name.contains(name));
    eprintln!("{rows} × {} × {dim} of f32, median of {rounds} rounds", keys.rows());
    let mut times = vec![(Vec::new(), Vec::new()); operations.len()];
    let mut differences = vec![String::new(); operations.len()];
    for round in 0..=rounds {
        for (place, operation) in operations.iter_mut().enumerate() {
            let (ours, answer) = timed(&mut operation.ours)?;
            let (peer, other) = timed(&mut operation.peer)?;
            // The first round compiles.
            match round {
                0 => differences[place] = answer.compared(&other)?,
                _ => {
                    times[place].0.push(ours);
                    times[place].1.push(peer);
                }
            }
        }
    }
    let mut cosine = 0.0;
    let mut found = Vec::new();
    for ((operation, times), differences) in operations.iter().zip(&mut times).zip(differences) {
        let (ours, peer) = (median(&mut times.0).as_secs_f64() * 1e3, median(&mut times.1).as_secs_f64() * 1e3);
        cosine = if operation.name == "cosine" { ours } else { cosine };
        let (name, ratio, of_cosine) = (operation.name, ours / peer, ours / cosine);
        eprintln!(
            "{name:<19} {ours:7.1} ms, {peer:7.1} ms from scores: {ratio:.2}; {of_cosine:.2} of cosine; {differences}"
        );
        found.push(json!({ "operation": name, "ms": ours, "from_scores_ms": peer, "ratio": ratio }));
    }
    Ok(json!({ "queries": rows, "keys": keys.rows(), "dim": dim, "dtype": "f32", "operations": found }))
}

fn all<'a>(
    device: &'a Device,
    queries: &'a Matrix<'a>,
    keys: &'a Matrix<'a>,
    host: &'a peer::Peer<'a>,
) -> Vec<Operation<'a>> {
    let top_k = |name, spec: TopK| {
        let same = spec.clone();
        Operation {
            name,
            ours: Box::new(move || Ok(Answer::of_neighbours(device.top_k(&spec, queries, keys)?))),
            peer: Box::new(move || host.top_k(&same)),
        }
    };
    let ratio = TopK::new(16).positives(Positives::Aligned).ratio(0.95);
    let uniform = Select::Uniform { seed: 1 };
    let softmax = Select::Softmax { temperature: 0.05, seed: 1 };
    let histogram = Histogram::new(-1.0, 1.0, 100);
    let bins = histogram.clone();
    let info_nce = InfoNce::new(0.05);
    let cosine = move || Ok(device.cosine(&Cosine::new(), queries, keys).map(|_| Answer::Scores)?);
    vec![
        Operation { name: "cosine", ours: Box::new(cosine), peer: Box::new(move || host.cosine()) },
        top_k("top_k, k 16", TopK::new(16)),
        top_k("top_k, ratio", ratio.clone()),
        top_k("top_k, counted", ratio.count_rejected(true)),
        top_k("top_k, uniform", TopK::new(16).select(uniform)),
        top_k("top_k, softmax", TopK::new(16).select(softmax)),
        top_k("top_k, k 256", TopK::new(256)),
        Operation {
            name: "histogram",
            ours: Box::new(move || Ok(Answer::of_counts(device.histogram(&histogram, queries, keys)?))),
            peer: Box::new(move || host.histogram(&bins)),
        },
        Operation {
            name: "info_nce",
            ours: {
                let spec = info_nce.clone();
                Box::new(move || Ok(Answer::of_loss(device.info_nce(&spec, queries, keys, None)?, None)))
            },
            peer: Box::new(move || host.info_nce(0.05)),
        },
        Operation {
            name: "info_nce_grad",
            ours: Box::new(move || {
                let (loss, gradients) = device.info_nce_grad(&info_nce, queries, keys, None)?;
                Ok(Answer::of_loss(loss, Some(gradients)))
            }),
            peer: Box::new(move || host.info_nce_grad(0.05)),
        },
    ]
}
