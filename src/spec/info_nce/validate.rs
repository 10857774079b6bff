//! What a specification of `info_nce` must hold.

use super::InfoNce;
use crate::error::{Error, Result};
use crate::spec::{Positives, Shape, finite, length, positive};

impl InfoNce {
    pub(crate) fn validate(&self, shape: Shape, negatives: usize) -> Result<()> {
        positive("temperature", self.temperature)?;
        if !(1.0 / self.temperature).is_finite() {
            return Err(Error::spec("temperature", format!("1/{} overflows", self.temperature)));
        }
        if self.directions.count() == 0 {
            return Err(Error::spec("directions", "the set is empty; name one of qk, kq, qq, kk"));
        }
        if matches!(self.positives, Positives::None) {
            return Err(Error::spec("positives", "a loss needs positives; say which keys they are"));
        }
        self.positives.validate(shape.queries, shape.keys, 0)?;
        finite("margin", self.margin)?;
        finite("upstream", self.upstream)?;
        self.validate_guard(shape, negatives)?;
        if let Some(beta) = self.beta {
            finite("beta", beta)?;
            if beta < 0.0 {
                return Err(Error::spec("beta", format!("{beta} is below 0")));
            }
        }
        if let Some(tau_plus) = self.tau_plus
            && !(0.0..1.0).contains(&tau_plus)
        {
            return Err(Error::spec("tau_plus", format!("{tau_plus} is not in [0, 1)")));
        }
        if let Some((alpha, _)) = self.alpha {
            finite("alpha", alpha)?;
            if !(1.0 / self.temperature + alpha).is_finite() {
                return Err(Error::spec("alpha", format!("1/{} + {alpha} overflows", self.temperature)));
            }
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(Error::spec("label_smoothing", format!("{} is not in [0, 1)", self.label_smoothing)));
        }
        if let Some(listed) = &self.listed {
            listed.validate("listed", shape.queries, negatives)?;
        }
        if let Some(set) = &self.exclude_negatives {
            length("exclude_negatives", set.len(), negatives)?;
        }
        if let Some(pairs) = &self.exclude_pairs {
            pairs.validate("exclude_pairs", shape.queries, negatives)?;
        }
        if self.shared(negatives) > negatives {
            let reason = format!("{} of {negatives} extra keys", self.shared(negatives));
            return Err(Error::spec("shared_negatives", reason));
        }
        self.validate_weights(shape)
    }

    fn validate_guard(&self, shape: Shape, negatives: usize) -> Result<()> {
        let guard = &self.guard;
        for (argument, value) in [("guard.above", guard.above), ("guard.ratio", guard.ratio)] {
            value.map_or(Ok(()), |value| finite(argument, value))?;
        }
        if let Some(ratio) = guard.ratio
            && ratio < 0.0
        {
            return Err(Error::spec("guard.ratio", format!("{ratio} is below 0")));
        }
        if guard.query_groups.is_none() && (guard.key_groups.is_some() || guard.negative_groups.is_some()) {
            return Err(Error::spec("guard.query_groups", "missing; groups of keys need the queries' groups"));
        }
        for (argument, groups, rows) in [
            ("guard.query_groups", &guard.query_groups, shape.queries),
            ("guard.key_groups", &guard.key_groups, shape.keys),
            ("guard.negative_groups", &guard.negative_groups, negatives),
        ] {
            groups.as_ref().map_or(Ok(()), |groups| length(argument, groups.len(), rows))?;
        }
        Ok(())
    }

    fn validate_weights(&self, shape: Shape) -> Result<()> {
        let Some(weights) = &self.weights else { return Ok(()) };
        length("weights", weights.len(), shape.queries)?;
        for (row, weight) in weights.iter().enumerate() {
            if !weight.is_finite() || *weight < 0.0 {
                return Err(Error::spec(
                    "weights",
                    format!("weight {weight} of row {row} must be finite and not negative"),
                ));
            }
        }
        match weights.iter().any(|weight| *weight > 0.0) || weights.is_empty() {
            true => Ok(()),
            false => Err(Error::spec("weights", "all are 0; one at least must be above 0")),
        }
    }
}
