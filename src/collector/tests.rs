//! The collector against a plain list of every line, and under threads.

#[cfg(feature = "server")]
mod explain;
mod model;
#[cfg(all(feature = "spool", feature = "server"))]
mod past;
#[cfg(all(feature = "spool", feature = "server"))]
mod spooled;
mod table;
mod threads;

use super::*;
use crate::{
    admission::{Admission, Cause, Draft, Receipt},
    batch::{Batch, EntryId, Kind, Row, Span},
    record::RejectReason,
};

/// A collector with small bounds.
pub(crate) fn small(change: impl FnOnce(&mut CollectorConfig)) -> LogCollector {
    let mut config = CollectorConfig { budget_bytes: 1 << 20, history_bytes: 1 << 18, ..CollectorConfig::default() };
    config.queue.lines = 10;
    config.queue.bytes = 1 << 16;
    change(&mut config);
    LogCollector::new(config)
}

/// A body of lines `machine|stream|message`, every third message in the arena; `None` if the budget has no room.
pub(crate) fn draft(collector: &LogCollector, lines: &[(&str, Kind, &str)], at: Timestamp) -> Option<Draft> {
    let (mut bytes, mut arena, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (ordinal, &(machine, kind, message)) in lines.iter().enumerate() {
        let start = bytes.len();
        let name = ["stdout", "stderr", "system", "audit"][kind as usize];
        bytes.extend_from_slice(format!("{machine}|{name}|{message}").as_bytes());
        let mut row = Row {
            raw: Span::body(start, bytes.len() - start),
            machine: Span::body(start, machine.len()),
            message: Span::body(bytes.len() - message.len(), message.len()),
            ordinal: ordinal as u32,
            kind,
            ..Row::default()
        };
        if kind == Kind::Other {
            row.stream = Span::body(start + machine.len() + 1, name.len());
        }
        if ordinal % 3 == 2 {
            row.message = Span::arena(arena.len(), message.len());
            arena.extend_from_slice(message.as_bytes());
        }
        rows.push(row);
        bytes.push(b'\n');
    }
    let mut batch = Batch::new(bytes.into(), arena, rows, at);
    batch.permit = Some(collector.budget().try_reserve(batch.bytes.len() + batch.table_bytes())?);
    let received = lines.len() as u64;
    let rejected = [0; RejectReason::ALL.len()];
    Some(Draft {
        batch,
        key: None,
        taken: None,
        asks_sinks: false,
        received,
        rejected,
        repaired: 0,
        errors: Vec::new(),
        samples: Vec::new(),
    })
}

/// Pushes lines `(machine, kind, message)`.
pub(crate) fn push(collector: &LogCollector, lines: &[(&str, Kind, &str)]) -> Result<Receipt, Cause> {
    let draft = draft(collector, lines, Timestamp::now()).ok_or(Cause::Memory)?;
    collector.admit(draft).map_err(|refused| refused.cause).and_then(Admission::wait)
}

/// Pushes one body of numbered lines of standard output of one machine.
pub(crate) fn push_numbers(
    collector: &LogCollector,
    machine: &str,
    numbers: std::ops::Range<u32>,
) -> Result<Receipt, Cause> {
    let texts: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let lines: Vec<_> = texts.iter().map(|text| (machine, Kind::Stdout, text.as_str())).collect();
    push(collector, &lines)
}

/// Both balances of the contract, and that every dropped line is on record.
#[track_caller]
pub(crate) fn assert_balanced(collector: &LogCollector) -> Stats {
    let stats = collector.stats();
    let fates = stats.lines_accepted + stats.lines_filtered + stats.lines_unrouted + stats.lines_rejected;
    assert_eq!(stats.lines_received, fates, "{stats:?}");
    let copies = stats.queue_lines_delivered + stats.queue_lines_dropped + stats.queue_lines;
    assert_eq!(stats.queue_lines_in, copies, "{stats:?}");
    let losses = collector.losses(None, None).entries;
    let lost: u64 = losses.iter().filter(|loss| loss.place == "queue").filter_map(|loss| loss.lines).sum();
    assert_eq!(lost, stats.queue_lines_dropped, "{stats:?}");
    assert!(stats.memory_used_bytes <= stats.memory_budget_bytes, "{stats:?}");
    stats
}
