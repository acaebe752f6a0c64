//! What `fuzz/` runs of the inside. **No API**: it may change or go with any commit.
//!
//! Each target takes any bytes and panics where what it claims does not hold; `fuzz/README.md` has the claims.

use crate::{body, http, record, spool};

/// A target: a claim about any bytes.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("body", body::fuzz::body),
    ("records", record::fuzz::records),
    ("shapes", record::fuzz::shapes),
    ("framing", http::fuzz::framing),
    ("spool", spool::fuzz::spool),
    ("tokens", http::auth::fuzz::tokens),
    ("queries", http::read::fuzz::queries),
];

/// Runs one target on `data`.
///
/// # Panics
///
/// If there is none of that name, or its claim does not hold.
pub fn run(target: &str, data: &[u8]) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name");
    run(data);
}

/// Reads a target's input from the front: first what to do, then with what. At its end everything is 0 or empty.
///
/// A number below ten is what its decimal digit says, so that seeds can be written by hand.
#[derive(Debug)]
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// Less than `bound`, from one byte, or from two if one cannot reach all.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let first = usize::from(self.byte().wrapping_sub(b'0'));
        let number = if bound > 256 { first << 8 | usize::from(self.byte()) } else { first };
        number % bound.max(1)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// The next `bytes`, or what is left.
    pub(crate) fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
