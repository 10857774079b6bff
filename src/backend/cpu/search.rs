//! What one query has of one chunk of keys: what the sieve let through, and the gate behind it.
//!
//! # The guess
//! Each key that passes has a score of at least `least = value − residual`, less what the query loses. The K-th largest
//! of these is a threshold that is proven, but it lies a whole bound below the K-th score, while rounding errors that are
//! as good as independent come to a fraction `1 / √dim` of the bound. So the sieve goes by a threshold that allows for
//! [`SPREAD`] times that fraction of the bound. When all that passed has its canonical score the K-th score is known: if
//! it is not above the guess by what the sieve can be wrong, the query is scanned again without guessing.

use super::gate::Gate;
use super::settle::Asked;
use super::sieve::Loss;
use crate::backend::best::Wanted;
use crate::backend::bounds::round_down;
use crate::output::Rejected;

/// How many times the standard deviation of the errors the guess allows for.
const SPREAD: f64 = 4.0;
/// Keys that a query holds before it looks which of them are still needed, beside those for each neighbour.
const MOST: usize = 256;
/// The same, for each neighbour that is wanted.
const MOST_PER_WANTED: usize = 8;
/// The same where keys are drawn, for which nothing but their scores says which are needed.
const MOST_DRAWN: usize = 32;
const MOST_PER_DRAWN: usize = 2;
/// Keys that are scored together at least.
const LEAST_BATCH: usize = 16;

/// A key that passed: the largest that its value can be, in the units of the sieve, and its position.
pub(crate) type Held = (f32, u32);

/// The search of one query in a chunk, or in a part of it.
pub(crate) struct Search<'a> {
    pub(crate) gate: Gate<'a>,
    pub(crate) held: Vec<Held>,
    /// When it is time to look what is still needed.
    most: usize,
    guess: Option<Guess>,
    /// The largest guess that something was left out by, in the units of the sieve.
    guessed: f32,
    loss: Option<Loss>,
    pub(crate) rejected: Rejected,
}

/// The K largest of what keys have at least, and some that came since.
struct Guess {
    /// As [`ordered`] integers.
    least: Vec<i32>,
    wanted: usize,
    /// The K-th largest when it was last looked for.
    kth: i32,
    /// The share of the bound that is allowed for.
    share: f32,
    /// What is taken off the K-th.
    less: f32,
    /// A key counts where the largest that its value can be is no more: else it may lie above the band.
    most: f32,
}

/// Integers in the order of the numbers, and back.
fn ordered(bits: i32) -> i32 {
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

/// How many are held before the K-th largest is looked for anew.
fn room_for(wanted: usize) -> usize {
    wanted + wanted / 4 + 8
}

/// How many keys a query holds before it looks which of them are still needed.
fn room(hardest: usize, drawn: usize) -> usize {
    match drawn {
        0 => MOST_PER_WANTED.saturating_mul(hardest).saturating_add(MOST),
        _ => MOST_PER_DRAWN.saturating_mul(drawn).saturating_add(MOST_DRAWN),
    }
}

/// The same for what a gate wants.
fn room_of(gate: &Gate) -> usize {
    room(gate.wanted(), gate.wanted_drawn())
}

impl Guess {
    fn new(gate: &Gate, loss: Loss, dim: usize) -> Option<Self> {
        if gate.draws() || gate.wanted() == 0 {
            return None;
        }
        let share = (SPREAD / (dim as f64).sqrt()).min(1.0);
        let Loss { fixed, share: unit } = loss;
        Some(Guess {
            least: Vec::with_capacity(room_for(gate.wanted())),
            wanted: gate.wanted(),
            kth: i32::MIN,
            share: share as f32,
            less: (((1.0 + share) * fixed + 2.0 * gate.error()) / unit) as f32,
            most: ((gate.certain_hi() - share * fixed) / unit) as f32,
        })
    }

    /// Takes a key; gives the guess where it rose.
    fn take(&mut self, upper: f32, residual: f32) -> Option<f32> {
        let value = upper - residual;
        let least = ordered((value - self.share * residual).to_bits() as i32);
        if least <= self.kth || value + self.share * residual > self.most {
            return None;
        }
        self.least.push(least);
        if self.least.len() < room_for(self.wanted) {
            return None;
        }
        self.kth = *self.least.select_nth_unstable_by(self.wanted - 1, |a, b| b.cmp(a)).1;
        self.least.truncate(self.wanted);
        Some(f32::from_bits(ordered(self.kth) as u32) - self.less)
    }
}

impl<'a> Search<'a> {
    /// `loss`: what the sieve loses, where there is one.
    pub(crate) fn new(gate: Gate<'a>, loss: Option<Loss>, dim: usize) -> Self {
        let guess = loss.and_then(|loss| Guess::new(&gate, loss, dim));
        let most = room_of(&gate);
        // Growing costs more than the room; without a sieve nothing is held.
        let held = Vec::with_capacity(if loss.is_some() { MOST } else { 0 });
        let guessed = f32::NEG_INFINITY;
        Search { gate, held, most, guess, guessed, loss, rejected: Rejected::default() }
    }

    /// Bytes that are held for a query, at most.
    pub(crate) fn most_bytes(wanted: Wanted, keys: usize) -> usize {
        let held = room(wanted.hardest, wanted.drawn).min(keys);
        let guessed = wanted.hardest.saturating_mul(2 * size_of::<i32>());
        held.saturating_mul(2 * size_of::<Held>()).saturating_add(guessed)
    }

    /// What a value plus its residual must reach, and a value less its residual must not pass.
    pub(crate) fn window(&self) -> (f32, f32) {
        let (lo, hi) = self.gate.window;
        match self.loss {
            Some(loss) => (loss.lower(lo).max(self.guessed), loss.upper(hi)),
            None => (lo, hi),
        }
    }

    /// Notes a key that passed; gives the guess where it rose.
    pub(crate) fn note(&mut self, upper: f32, residual: f32, position: u32) -> Option<f32> {
        self.held.push((upper, position));
        let guess = self.guess.as_mut()?.take(upper, residual)?;
        self.guessed = self.guessed.max(guess);
        Some(self.guessed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= self.most
    }

    /// Whether so many are left that they must be scored: their values lie too close together to drop any.
    pub(crate) fn is_crowded(&self) -> bool {
        self.held.len() > room_of(&self.gate) / 2
    }

    /// Makes room for more beside those that are left.
    pub(crate) fn make_room(&mut self) {
        self.most = self.held.len() + room_of(&self.gate) / 2;
    }

    /// Drops what is not needed any more.
    pub(crate) fn drop_needless(&mut self) {
        let (needed, _) = self.window();
        if !self.gate.draws() {
            self.held.retain(|(upper, _)| *upper >= needed);
        }
    }

    /// Takes out the keys whose scores say most: those that may lie above the band, which no other score decides, and of
    /// the rest those that can be largest, as many as are wanted. All, where keys are drawn.
    pub(crate) fn promising(&mut self) -> Vec<Held> {
        let Some(loss) = self.loss.filter(|_| !self.gate.draws()) else {
            return std::mem::take(&mut self.held);
        };
        let inside = round_down((self.gate.certain_hi() - loss.fixed) / loss.share);
        let mut taken: Vec<Held> = self.held.extract_if(.., |(upper, _)| *upper > inside).collect();
        let rest = self.held.len().saturating_sub(self.gate.wanted().max(LEAST_BATCH));
        if rest > 0 {
            self.held.select_nth_unstable_by(rest, |a, b| a.0.total_cmp(&b.0));
        }
        taken.extend(self.held.drain(rest..));
        taken
    }

    /// What must be scored of the chunk: the promising keys first, then of the others those that are still needed.
    pub(crate) fn asked(&mut self, row: usize, first: bool) -> impl Iterator<Item = Asked> {
        let held = if first {
            self.promising()
        } else {
            self.drop_needless();
            std::mem::take(&mut self.held)
        };
        held.into_iter().map(move |(_, position)| Asked { position, row: row as u32, score: f32::NAN })
    }

    /// Whether a guess was too high: what it left out may belong to the answer.
    pub(crate) fn is_refuted(&self) -> bool {
        self.loss.is_some_and(|loss| self.guessed > loss.lower(self.gate.window.0))
    }

    /// Begins anew without guessing; what scores have proved stays.
    pub(crate) fn restart(&mut self) {
        self.gate.restart();
        self.held.clear();
        (self.guess, self.guessed) = (None, f32::NEG_INFINITY);
    }

    /// Takes over what a search of the same query in other keys found.
    pub(crate) fn absorb(&mut self, other: Search) {
        self.held.extend(other.held);
        self.guessed = self.guessed.max(other.guessed);
        self.rejected += other.rejected;
        self.gate.absorb(other.gate);
    }
}
