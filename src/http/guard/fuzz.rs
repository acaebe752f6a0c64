//! Any byte stream, through the guard and without it.

use super::seen::{Seen, seen};
use crate::fuzzing::Choices;

/// What the guard lets pass of a connection, hyper reads as it does without the guard: the same methods, targets and bodies, in the
/// same order, from the first on. And the pieces in which the bytes come make no difference to it.
pub(crate) fn framing(data: &[u8]) {
    let mut choices = Choices(data);
    let piece = choices.below(200) + 1;
    let wire = choices.0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    let (guarded, whole, bare): (Vec<Seen>, Vec<Seen>, Vec<Seen>) = runtime.block_on(async {
        let guarded = seen(wire, piece, true).await;
        (guarded, seen(wire, wire.len().max(1), true).await, seen(wire, wire.len().max(1), false).await)
    });
    assert_eq!(guarded, whole, "the pieces make a difference");
    assert!(guarded.len() <= bare.len(), "{guarded:?} {bare:?}");
    assert_eq!(guarded, bare[..guarded.len()]);
}
