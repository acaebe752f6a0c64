//! Cursors against a history whose past goes away under them.

use proptest::prelude::*;

use super::*;
use crate::batch::{FIRST_SEQ, Row, Span};

/// Publishes one batch of `lines` lines of one machine, as the collector does. Returns its machine's new trail.
fn publish(history: &History, trail: Trail, lines: u32) -> (Trail, usize) {
    let row = |ordinal| Row { raw: Span::body(0, 1), machine: Span::body(0, 1), ordinal, ..Row::default() };
    let rows: Vec<_> = (0..lines).map(row).collect();
    let mut batch = Batch::new("m".into(), Vec::new(), rows, Timestamp::UNIX_EPOCH);
    (batch.seq, batch.first_line) = history.end();
    (batch.groups[0].first_seq, batch.groups[0].prev) = (trail.next_seq, trail.last);
    let at = GroupRef { batch: batch.seq, group: 0 };
    let trail = Trail { last: Some(at), next_seq: batch.groups[0].end_seq(), end: batch.seq + 1 };
    history.append(Arc::new(batch));
    (trail, std::iter::from_fn(|| history.evict()).count())
}

fn publish_all(history: &History, sizes: &[u32]) -> Trail {
    let none = Trail { last: None, next_seq: FIRST_SEQ, end: 0 };
    sizes.iter().fold(none, |trail, lines| publish(history, trail, *lines).0)
}

/// Reads to the end: lines seen and lines missed, which must be one row of numbers without gap or repeat.
fn play(history: &History, trail: Trail, cursor: &mut MachineCursor) -> (u64, u64) {
    let (mut next, mut seen, mut missed) = (cursor.next_seq(), 0, 0);
    while let Some(step) = cursor.step(history, trail) {
        match step {
            Next::Lines(step) => {
                let group = &step.batch.groups[step.at.group as usize];
                next += step.missed;
                assert_eq!(group.first_seq + u64::from(step.rows.start), next);
                next += step.rows.len() as u64;
                (seen, missed) = (seen + step.rows.len() as u64, missed + step.missed);
            }
            Next::Lost(lost) => (next, missed) = (next + lost, missed + lost),
            Next::Past => unreachable!(),
        }
        assert_eq!(cursor.next_seq(), next);
    }
    assert_eq!(next, trail.next_seq);
    (seen, missed)
}

#[test]
fn a_cursor_far_behind_looks_ahead_a_bounded_way_and_misses_nothing() {
    let history = History::new(1 << 30, Start::default());
    let trail = publish_all(&history, &[1; PLAN_MAX * 3 + 7]);
    let mut cursor = MachineCursor::new(FIRST_SEQ, 0);
    assert!(cursor.step(&history, trail).is_some());
    assert!(cursor.plan.len() < PLAN_MAX);
    assert_eq!(play(&history, trail, &mut cursor), (PLAN_MAX as u64 * 3 + 6, 0));
}

#[test]
fn the_newest_batch_stays_however_large() {
    let history = History::new(1, Start::default());
    let (trail, evicted) = publish(&history, Trail { last: None, next_seq: FIRST_SEQ, end: 0 }, 1000);
    assert_eq!((evicted, history.held().1), (0, 1000));
    let (trail, evicted) = publish(&history, trail, 10);
    assert_eq!((evicted, history.held().1), (1, 10));
    assert_eq!(play(&history, trail, &mut MachineCursor::new(FIRST_SEQ, 0)), (10, 1000));
}

#[test]
fn a_machine_of_which_nothing_is_held_any_more_is_all_missed() {
    let history = History::new(1, Start::default());
    let trail = publish_all(&history, &[5, 5]);
    let _other = publish_all(&history, &[1]);
    assert_eq!(play(&history, trail, &mut MachineCursor::new(FIRST_SEQ + 2, 0)), (0, 8));
}

proptest! {
    #[test]
    fn what_is_seen_and_what_is_missed_add_up(
        sizes in prop::collection::vec(1u32..20, 1..40),
        more in prop::collection::vec(1u32..200, 0..20),
        bytes_max in 1usize..60_000,
        from in 0u64..100,
        steps in 0usize..20,
    ) {
        let history = History::new(bytes_max, Start::default());
        let mut trail = publish_all(&history, &sizes);
        let from = FIRST_SEQ + from % (trail.next_seq - FIRST_SEQ + 1);
        let (mut cursor, mut fleet) = (MachineCursor::new(from, 0), history.at_line(from - FIRST_SEQ));
        let (mut seen, mut missed, mut fleet_sum) = (0, 0, 0);
        for _ in 0..steps {
            match cursor.step(&history, trail) {
                Some(Next::Lines(step)) => (seen, missed) = (seen + step.rows.len() as u64, missed + step.missed),
                Some(Next::Lost(lost)) => missed += lost,
                Some(Next::Past) | None => break,
            }
        }
        for lines in more {
            trail = publish(&history, trail, lines).0;
        }
        let (saw, lost) = play(&history, trail, &mut cursor);
        prop_assert_eq!(seen + saw + missed + lost, trail.next_seq - from);
        while let Some(Next::Lines(step)) = fleet.step(&history) {
            fleet_sum += step.missed + step.batch.lines() - u64::from(step.from);
        }
        prop_assert_eq!(fleet_sum, trail.next_seq - from);
    }
}
