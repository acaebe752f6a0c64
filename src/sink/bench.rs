//! What the bench `sink` needs of the inside.

use super::{
    Encoding, Parcel, Rows, Run,
    lots::{Lot, split},
    template::Template,
};
use crate::LogCollector;

/// The lines of some batches that a collector's history holds.
#[derive(Debug)]
pub struct Lines(Parcel);

impl Lines {
    /// All that is held, in parcels of so many batches; what is over is left out.
    #[must_use]
    pub fn held(collector: &LogCollector, batches: usize) -> Vec<Self> {
        let history = &collector.shared.history;
        let held: Vec<_> = (history.first_seq()..history.end().0)
            .filter_map(|seq| history.batch_before(seq + 1))
            .map(|batch| Run { rows: Rows::Range(0..batch.rows.len() as u32), batch })
            .collect();
        held.chunks_exact(batches).map(|runs| Self(Parcel::new(runs.to_vec()))).collect()
    }

    /// The records as sent.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.0.entries().map(|entry| entry.raw())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lines()
    }
}

/// Lines as a sink `file` writes them, into buffers that are used again.
pub struct Lots {
    template: Template,
    spare: Vec<Vec<u8>>,
}

impl Lots {
    /// With a name for each line's file.
    ///
    /// # Panics
    ///
    /// When `template` is not a template of names.
    #[must_use]
    pub fn new(template: &str) -> Self {
        Self { template: Template::parse(template, false).expect("a template"), spare: Vec::new() }
    }

    /// Writes each line where it belongs; the bytes of all of them.
    pub fn write(&mut self, lines: &Lines) -> usize {
        let begin = |_: &str| self.spare.pop().unwrap_or_default();
        let lots = split(&lines.0, &self.template, Encoding::Raw, false, begin);
        let bytes = lots.iter().map(|lot| lot.buffer.len()).sum();
        self.spare.extend(lots.into_iter().map(|Lot { mut buffer, .. }| {
            buffer.clear();
            buffer
        }));
        bytes
    }
}
