//! What a scheme of the ladder asks for at a step.

use std::collections::BTreeMap;

use super::config::SamplerConfig;
use super::curriculum::{Curriculum, Setting};
use super::drawing::Aim;
use super::ladder::Scheme;
use super::tiers::{Selection, Tier, TierBand, normalised};

/// What a scheme asks for at a step.
pub(super) struct Force {
    pub(super) scheme: Scheme,
    pub(super) temperature: f32,
    pub(super) margin: f32,
    pub(super) shares: [f64; 3],
    pub(super) negatives: usize,
    pub(super) aims: [Aim; 3],
}

impl Force {
    /// What a scheme asks for at a step.
    pub(super) fn of(scheme: Scheme, config: &SamplerConfig, curriculum: &Curriculum, step: u64) -> Force {
        let Setting { temperature, margin, band, shares: named } = match scheme {
            Scheme::Curriculum => curriculum.at(step),
            _ => {
                // As configured and constant: the values of step 0, without the controller and the band beside the tiers'.
                let start = curriculum.at(0);
                Setting { band: Default::default(), shares: Default::default(), ..start }
            }
        };
        let tiers = &config.tiers;
        let own = [tiers.hard.share, tiers.semi_hard.share, tiers.random.share];
        let shares = match scheme {
            Scheme::Curriculum => with_named(own, &named),
            Scheme::Fixed => own,
            Scheme::SemiHard => [0.0, own[0] + own[1], own[2]],
            Scheme::Random | Scheme::InBatch => [0.0, 0.0, 1.0],
        };
        let narrowed = |own: TierBand| TierBand {
            lo: larger(own.lo, Some(band.lo).filter(|lo| lo.is_finite())),
            hi: larger(own.hi.map(|hi| -hi), Some(-band.hi).filter(|hi| hi.is_finite())).map(|hi| -hi),
            margin: larger(own.margin, band.margin),
            ratio: larger(own.ratio.map(|ratio| -ratio), band.ratio.map(|ratio| -ratio)).map(|ratio| -ratio),
            ranks: own.ranks,
        };
        Force {
            scheme,
            temperature,
            margin,
            shares,
            negatives: if scheme == Scheme::InBatch { 0 } else { config.negatives },
            aims: [
                Aim { tier: Tier::Hard, band: narrowed(tiers.hard.band), select: tiers.hard.select },
                Aim { tier: Tier::SemiHard, band: narrowed(tiers.semi_hard.band), select: tiers.semi_hard.select },
                Aim { tier: Tier::Random, band: TierBand::default(), select: Selection::Uniform },
            ],
        }
    }
}

/// The larger of two bounds, either of which may be absent.
fn larger(a: Option<f32>, b: Option<f32>) -> Option<f32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// The tiers' shares where a curriculum names some: those it does not name keep theirs, the named ones share the rest.
fn with_named(own: [f64; 3], named: &BTreeMap<String, f64>) -> [f64; 3] {
    let own = normalised(own);
    let named = Tier::ALL.map(|tier| named.get(tier.name()).copied());
    let kept: f64 = own.iter().zip(named).filter(|(_, named)| named.is_none()).map(|(own, _)| own).sum();
    std::array::from_fn(|tier| named[tier].map_or(own[tier], |share| share * (1.0 - kept)))
}
