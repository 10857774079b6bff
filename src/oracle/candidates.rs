//! Who is a candidate of which log-sum of `info_nce`: all that is decided rather than computed.

use super::canonical::CanonicalRow;
use super::exact::exact_score;
use super::input::Input;
use crate::spec::{AlphaOn, Directions, InfoNce, Lists, Reading};

/// A row of one of the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    Query(usize),
    Key(usize),
    Extra(usize),
}

/// What a candidate is to its log-sum. Positives carry the margin in their logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The positive whose term this is.
    OwnPositive,
    /// Another positive, kept in by the SupCon reading.
    OtherPositive,
    Negative,
}

#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) point: Point,
    pub(super) role: Role,
    /// Additive hardness: α times the score, a constant to every gradient.
    pub(super) bonus: f64,
}

/// The candidates of one direction.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) direction: Directions,
    pub(super) anchor: Point,
    pub(super) candidates: Vec<Candidate>,
}

/// One query with one of its positives.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) positive: usize,
    /// One block per direction of the specification.
    pub(super) blocks: Vec<Block>,
}

/// One of the inputs, for points that lie in it.
struct Side {
    input: Input,
    canonical: Vec<Option<CanonicalRow>>,
}

/// The inputs and what is decided on them.
pub(super) struct Candidates<'a> {
    spec: &'a InfoNce,
    queries: Side,
    keys: Side,
    extras: Side,
    /// The positives of each query, without skipped keys; none for a skipped query.
    positives: Vec<Vec<usize>>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(spec: &'a InfoNce, queries: Input, keys: Input, extras: Input) -> Self {
        let lists: Lists = spec.positives.to_lists(queries.len(), 0);
        let positives = (0..queries.len())
            .map(|query| match queries.skipped[query] {
                true => Vec::new(),
                false => lists.get(query).iter().copied().filter(|key| !keys.skipped[*key]).collect(),
            })
            .collect();
        let side = |input: Input| Side { canonical: input.canonical(), input };
        Candidates { spec, queries: side(queries), keys: side(keys), extras: side(extras), positives }
    }

    /// The terms of query `row`, one per positive.
    pub(super) fn terms(&self, row: usize) -> Vec<Term> {
        let own = self.positives[row].iter();
        let smallest = own.map(|key| self.canonical_score(Point::Query(row), Point::Key(*key))).reduce(f32::min);
        let Some(smallest) = smallest else { return Vec::new() };
        let bound = self.spec.guard_bound(smallest);
        let directions = Directions::NAMES.map(|(direction, _)| direction);
        self.positives[row]
            .iter()
            .map(|positive| Term {
                positive: *positive,
                blocks: directions
                    .into_iter()
                    .filter(|direction| self.spec.directions.contains(*direction))
                    .map(|direction| self.block(direction, row, *positive, bound))
                    .collect(),
            })
            .collect()
    }

    fn block(&self, direction: Directions, row: usize, positive: usize, bound: f32) -> Block {
        let anchor = match direction {
            Directions::QK | Directions::QQ => Point::Query(row),
            _ => Point::Key(positive),
        };
        let sides = match direction {
            Directions::QK | Directions::KK => [Point::Key as fn(usize) -> Point, Point::Extra].to_vec(),
            _ => vec![Point::Query as fn(usize) -> Point],
        };
        let mut candidates = Vec::new();
        for point_of in sides {
            for index in 0..self.side(point_of(0)).0.input.len() {
                let point = point_of(index);
                let Some(role) = self.role(direction, row, positive, point) else { continue };
                if role == Role::Negative && self.guarded(row, anchor, point, bound) {
                    continue;
                }
                let bonus = match role {
                    Role::Negative if direction == Directions::QK => self.bonus(row, point),
                    _ => 0.0,
                };
                candidates.push(Candidate { point, role, bonus });
            }
        }
        Block { direction, anchor, candidates }
    }

    /// The role of `point` in a direction of the term (`row`, `positive`), before the guards; none where it takes no
    /// part.
    fn role(&self, direction: Directions, row: usize, positive: usize, point: Point) -> Option<Role> {
        let (side, index) = self.side(point);
        if side.input.skipped[index] {
            return None;
        }
        let other_positive = match self.spec.reading {
            Reading::NtXent => None,
            Reading::SupCon => Some(Role::OtherPositive),
        };
        match (direction, point) {
            (Directions::QK, Point::Key(key)) if key == positive => Some(Role::OwnPositive),
            (Directions::QK, Point::Key(key)) if self.positives[row].contains(&key) => other_positive,
            (Directions::QK, Point::Key(_)) => Some(Role::Negative),
            (Directions::QK, Point::Extra(extra)) => {
                (self.shared(extra) || self.listed(row, extra)).then_some(Role::Negative)
            }
            (Directions::KQ, Point::Query(query)) if query == row => Some(Role::OwnPositive),
            (Directions::KQ, Point::Query(query)) if self.positives[query].contains(&positive) => other_positive,
            (Directions::KQ, Point::Query(_)) => Some(Role::Negative),
            (Directions::QQ, Point::Query(query)) => (query != row).then_some(Role::Negative),
            (Directions::KK, Point::Key(key)) => (!self.positives[row].contains(&key)).then_some(Role::Negative),
            (Directions::KK, Point::Extra(extra)) => {
                (self.shared(extra) && !self.listed(row, extra)).then_some(Role::Negative)
            }
            _ => None,
        }
    }

    /// Whether a guard drops the negative `point` from a log-sum of query `row`.
    fn guarded(&self, row: usize, anchor: Point, point: Point, bound: f32) -> bool {
        self.excluded(row, point)
            || self.canonical_score(anchor, point) > bound
            || self.same_group(row, point)
            || self.duplicate(row, point)
    }

    /// Whether the specification leaves the extra key out, for all queries or for this one.
    fn excluded(&self, row: usize, point: Point) -> bool {
        let Point::Extra(extra) = point else { return false };
        self.spec.exclude_negatives.as_ref().is_some_and(|set| set.contains(extra))
            || self.spec.exclude_pairs.as_ref().is_some_and(|pairs| pairs.get(row).contains(&extra))
    }

    fn same_group(&self, row: usize, point: Point) -> bool {
        let guard = &self.spec.guard;
        let Some(query_groups) = &guard.query_groups else { return false };
        let (groups, index) = match point {
            Point::Query(index) => (&guard.query_groups, index),
            Point::Key(index) => (&guard.key_groups, index),
            Point::Extra(index) => (&guard.negative_groups, index),
        };
        groups.as_ref().is_some_and(|groups| groups[index] == query_groups[row])
    }

    /// Whether `point` equals the row's own side of the pair, bit for bit once widened.
    fn duplicate(&self, row: usize, point: Point) -> bool {
        let equal = |x: &[f32], y: &[f32]| x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits());
        let values = self.values(point);
        let own = match point {
            Point::Query(_) => equal(values, self.values(Point::Query(row))),
            _ => self.positives[row].iter().any(|key| equal(values, self.values(Point::Key(*key)))),
        };
        self.spec.guard.duplicates && own
    }

    fn shared(&self, extra: usize) -> bool {
        extra < self.spec.shared(self.extras.input.len())
    }

    fn listed(&self, row: usize, extra: usize) -> bool {
        self.spec.listed.as_ref().is_some_and(|listed| listed.get(row).contains(&extra))
    }

    fn bonus(&self, row: usize, point: Point) -> f64 {
        let Some((alpha, on)) = self.spec.alpha else { return 0.0 };
        let listed = matches!(point, Point::Extra(extra) if self.listed(row, extra));
        let selected = match on {
            AlphaOn::InBatch => !listed,
            AlphaOn::Listed => listed,
            AlphaOn::All => true,
        };
        match selected {
            true => {
                f64::from(alpha) * exact_score(self.spec.metric, self.values(Point::Query(row)), self.values(point))
            }
            false => 0.0,
        }
    }

    /// The canonical score of two points that are not skipped. Between a query and a key the query comes first,
    /// between two of a kind the anchor.
    fn canonical_score(&self, anchor: Point, point: Point) -> f32 {
        let (first, second) = match (anchor, point) {
            (Point::Key(_), Point::Query(_)) => (point, anchor),
            _ => (anchor, point),
        };
        match (self.canonical(first), self.canonical(second)) {
            (Some(first), Some(second)) => first.score(self.spec.metric, second),
            _ => f32::NAN,
        }
    }

    fn canonical(&self, point: Point) -> Option<&CanonicalRow> {
        let (side, index) = self.side(point);
        side.canonical[index].as_ref()
    }

    fn values(&self, point: Point) -> &[f32] {
        let (side, index) = self.side(point);
        &side.input.rows[index]
    }

    fn side(&self, point: Point) -> (&Side, usize) {
        match point {
            Point::Query(index) => (&self.queries, index),
            Point::Key(index) => (&self.keys, index),
            Point::Extra(index) => (&self.extras, index),
        }
    }
}
