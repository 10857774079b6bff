//! The second pass of the loss that keeps slopes in registers, beside the one that writes them, and the oracle.

use half::{bf16, f16};

use super::tests::open;
use super::*;
use crate::backend::Batch;
use crate::backend::gpu::matrix_unit::MatrixUnit;
use crate::dtype::Element;
use crate::matrix::Matrix;
use crate::oracle;
use crate::plan::MOST_FUSED_DIM;
use crate::spec::{Directions, InfoNce, Lists, Positives, Reading};
use crate::{Gradients, Loss};

const ALL: [Directions; 4] = [Directions::QK, Directions::KQ, Directions::QQ, Directions::KK];

/// A card of its own whose rows of up to `fused_dim` elements are fused, `processors` groups at a time. `None` where there
/// is no card with a matrix unit.
fn card(fused_dim: u32, processors: u32) -> Result<Option<Cuda>> {
    if open().is_none_or(|cuda| MatrixUnit::of(&cuda.calls.card.offers).is_none()) {
        return Ok(None);
    }
    let mut card = Card::unshared(0)?;
    (card.offers.fused_dim, card.offers.processors) = (fused_dim, processors);
    Cuda::new(Arc::new(card), None, Limits::default()).map(Some)
}

/// Rows around a few centres, so that softmaxes are neither flat nor of one element; among them zeros, twins, and one that
/// is all but one element.
fn rows<T: Element>(count: usize, dim: usize, seed: u32) -> Matrix<'static> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut data = Vec::new();
    for row in 0..count {
        let centre = (row % 7) as f32;
        for element in 0..dim {
            let value = match row % 31 {
                30 => 0.0,
                29 if element == row % dim => 900.0,
                28 => 0.25 * ((element % 3) as f32 - 0.5),
                _ => next() + 0.6 * (centre * 1.7 + element as f32 * (1.0 + centre)).sin(),
            };
            data.push(T::from_f32(value));
        }
    }
    Matrix::from_vec(data, count, dim).unwrap()
}

struct Inputs {
    queries: Matrix<'static>,
    keys: Matrix<'static>,
    negatives: Option<Matrix<'static>>,
}

impl Inputs {
    fn new<T: Element>([queries, keys, negatives]: [usize; 3], dim: usize) -> Self {
        let negatives = (negatives > 0).then(|| rows::<T>(negatives, dim, 3));
        Inputs { queries: rows::<T>(queries, dim, 1), keys: rows::<T>(keys, dim, 2), negatives }
    }

    fn run(&self, cuda: &Cuda, spec: &InfoNce) -> Result<(Loss, Gradients)> {
        let negatives = self.negatives.as_ref().map(|negatives| negatives as &dyn crate::matrix::Rows);
        let batch = Batch { queries: &self.queries, keys: &self.keys, negatives };
        let (loss, gradients) = cuda.info_nce(spec, batch, true)?;
        Ok((loss, gradients.expect("gradients were asked for")))
    }
}

/// The largest distance from what is expected, as a share of the largest element.
fn distance(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30_f64, |largest, value| largest.max(value.abs()));
    let distances = found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
    distances.fold(0.0, f64::max) / largest
}

/// The distances of what the second pass makes, gradients and influences, from the oracle's.
fn distances(inputs: &Inputs, spec: &InfoNce, (loss, gradients): &(Loss, Gradients)) -> [f64; 5] {
    let expected = oracle::info_nce(spec, &inputs.queries, &inputs.keys, inputs.negatives.as_ref()).unwrap();
    [
        distance(&gradients.queries, &expected.grad_queries),
        distance(&gradients.keys, &expected.grad_keys),
        distance(&gradients.negatives, &expected.grad_negatives),
        distance(&loss.key_influence, &expected.key_influence),
        distance(&loss.negative_influence, &expected.negative_influence),
    ]
}

fn bits((loss, gradients): &(Loss, Gradients)) -> Vec<u32> {
    let all = [&loss.rows, &loss.key_influence, &loss.negative_influence, &gradients.queries, &gradients.keys];
    let all = all.into_iter().chain([&gradients.negatives]).flatten();
    all.chain([&loss.loss, &gradients.temperature]).map(|value| value.to_bits()).collect()
}

/// The gradients are the oracle's, within what tests/info_nce allows any answer.
fn check(cuda: &Cuda, inputs: &Inputs, spec: &InfoNce, case: &str) -> Result<()> {
    let found = distances(inputs, spec, &inputs.run(cuda, spec)?);
    let tolerance = 5e-7 / f64::from(spec.temperature) + 1e-5;
    assert!(found.iter().all(|distance| *distance <= tolerance), "{case}: {found:?}");
    Ok(())
}

#[test]
fn short_rows_are_fused_and_no_others() -> Result<()> {
    let spec = InfoNce::new(0.1).directions(Directions::QK | Directions::KQ);
    for (fused_dim, dim, expected) in
        [(128, 128, true), (128, 1, true), (128, 130, false), (64, 70, false), (0, 16, false)]
    {
        let Some(cuda) = card(fused_dim, 2)? else { return Ok(()) };
        Inputs::new::<f16>([20, 20, 0], dim).run(&cuda, &spec)?;
        let run = |entry| cuda.calls.card.has_run(entry);
        assert_eq!((run("add_gradients"), run("add_products")), (expected, !expected), "{dim} up to {fused_dim}");
        assert_eq!(run("backward"), !expected, "{dim} up to {fused_dim}");
    }
    // Rows that the matrix unit does not take are taken by plain cores.
    let Some(cuda) = card(MOST_FUSED_DIM, 2)? else { return Ok(()) };
    Inputs::new::<f32>([20, 20, 0], 16).run(&cuda, &spec)?;
    assert!(!cuda.calls.card.has_run("add_gradients") && cuda.calls.card.has_run("multiply"));
    Ok(())
}

#[test]
fn fused_gradients_are_the_oracles() -> Result<()> {
    // Few processors: one slice; many: a tile a slice.
    for (processors, dim, shape) in [
        (1, 1, [1, 1, 0]),
        (40, 8, [1, 70, 0]),
        (1, 33, [129, 130, 0]),
        (40, 64, [65, 200, 33]),
        (40, 100, [70, 71, 1]),
        (1, 128, [3, 257, 0]),
        (40, 128, [130, 140, 0]),
    ] {
        let Some(cuda) = card(MOST_FUSED_DIM, processors)? else { return Ok(()) };
        let every = InfoNce::new(0.1).directions(ALL[0] | ALL[1] | ALL[2] | ALL[3]);
        let case = format!("dim {dim}, {shape:?}, {processors} processors");
        check(&cuda, &Inputs::new::<f16>(shape, dim), &every, &case)?;
        let spec = InfoNce::new(0.05).directions(ALL[dim % 2]);
        check(&cuda, &Inputs::new::<bf16>(shape, dim), &spec, &format!("bf16, {case}"))?;
    }
    Ok(())
}

/// No sum depends on which group comes first; and slopes that are written give the same to rounding.
#[test]
fn fused_gradients_are_the_same_bits_again() -> Result<()> {
    let (Some(fused), Some(written)) = (card(MOST_FUSED_DIM, 20)?, card(0, 20)?) else { return Ok(()) };
    let inputs = Inputs::new::<f16>([140, 150, 20], 72);
    let spec = InfoNce::new(0.07).directions(ALL[0] | ALL[1]);
    let found = inputs.run(&fused, &spec)?;
    assert_eq!(bits(&inputs.run(&fused, &spec)?), bits(&found));
    let written = inputs.run(&written, &spec)?;
    let first_pass = |(loss, gradients): &(Loss, Gradients)| (loss.rows.clone(), gradients.temperature);
    assert_eq!(first_pass(&written), first_pass(&found));
    let beside = distances(&inputs, &spec, &written);
    let found = distances(&inputs, &spec, &found);
    let near = found.iter().zip(beside).all(|(found, beside)| *found <= 2.0 * beside + 1e-6);
    assert!(near, "{found:?}, where slopes are written {beside:?}");
    Ok(())
}

#[test]
fn fused_gradients_keep_every_rule() -> Result<()> {
    let Some(cuda) = card(MOST_FUSED_DIM, 3)? else { return Ok(()) };
    let shape = [70, 90, 40];
    let inputs = Inputs::new::<f16>(shape, 40);
    let plain = InfoNce::new(0.2).directions(ALL[0] | ALL[1] | ALL[2] | ALL[3]);
    let mut guarded = plain.clone();
    guarded.guard.above = Some(0.05);
    guarded.guard.duplicates = true;
    let mut labelled = plain.clone().label_smoothing(0.1);
    let labels = |rows: usize| Some((0..rows).map(|row| (row % 9) as i64).collect());
    labelled.guard.query_groups = labels(shape[0]);
    labelled.guard.key_groups = labels(shape[1]);
    labelled.guard.negative_groups = labels(shape[2]);
    let pairs = (0..shape[0]).flat_map(|query| [(query, query % 11), (query, query + 20)]);
    let several = plain.clone().positives(Positives::Lists(Lists::from_pairs(shape[0], pairs).unwrap()));
    let lists = Lists::from_rows((0..shape[0]).map(|query| vec![query % 40, (query * 7 + 1) % 40]));
    let listed = plain.clone().directions(ALL[0] | ALL[1]).listed(lists, 25);
    let weighed = plain.clone().weights((0..shape[0]).map(|row| (row % 4) as f32).collect()).joint(true).upstream(-0.5);
    for (name, spec) in [
        ("guarded", guarded),
        ("labelled", labelled),
        ("several", several.clone()),
        ("supcon", several.reading(Reading::SupCon)),
        ("listed", listed),
        ("weighed", weighed),
    ] {
        check(&cuda, &inputs, &spec, name)?;
    }
    Ok(())
}

/// More rows than a chain of sums has, on either side of the block.
#[test]
fn long_walks_are_summed_in_chains() -> Result<()> {
    let Some(cuda) = card(MOST_FUSED_DIM, 1)? else { return Ok(()) };
    check(&cuda, &Inputs::new::<f16>([5, 2200, 0], 8), &InfoNce::new(0.1), "many keys")?;
    let mut spec = InfoNce::new(0.1).directions(ALL[1]);
    spec.positives = Positives::Index((0..2100).map(|query| query % 3).collect());
    check(&cuda, &Inputs::new::<f16>([2100, 3, 0], 8), &spec, "many queries")
}
