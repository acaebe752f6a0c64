//! Who takes bytes, gives them back and waits for them.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::budget::{Budget, Permit};

const LIMIT: usize = 80;

/// Bytes that are held, counted by who holds them: no place to switch at.
#[derive(Default)]
struct Held(AtomicUsize);

impl Held {
    fn add(&self, budget: &Budget, bytes: usize) {
        let held = self.0.fetch_add(bytes, SeqCst) + bytes;
        assert!(held <= budget.body_bytes_max(), "{held} bytes are held");
        assert!(budget.used() <= budget.limit(), "{budget:?}");
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, SeqCst);
    }
}

/// Waits for `bytes`, as a held sender does.
fn wait_for(budget: &Arc<Budget>, bytes: usize) -> Permit {
    loop {
        let mut room = budget.room();
        room.enable();
        if let Some(permit) = budget.try_reserve(bytes) {
            return permit;
        }
        block_on(room.wait());
    }
}

#[test]
fn a_budget_is_never_overdrawn_and_who_waits_for_it_gets_its_turn() {
    explore(|| {
        let (budget, held) = (Budget::new(LIMIT), Arc::new(Held::default()));
        let takers: Vec<_> = [(40, 20), (50, 1), (30, 70), (60, 40)]
            .into_iter()
            .map(|(bytes, then)| {
                let (budget, held) = (Arc::clone(&budget), Arc::clone(&held));
                spawn(move || {
                    for _ in 0..2 {
                        let mut permit = wait_for(&budget, bytes);
                        held.add(&budget, bytes);
                        yield_now();
                        if then < bytes {
                            held.give_back(bytes - then);
                            assert!(permit.try_resize(then), "less always fits");
                        } else if permit.try_resize(then) {
                            held.add(&budget, then - bytes);
                        }
                        held.give_back(permit.bytes());
                        drop(permit);
                    }
                })
            })
            .collect();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(budget.used(), 0);
        assert!(budget.try_reserve(budget.body_bytes_max()).is_some());
    });
}

#[test]
fn copies_and_bodies_take_nothing_of_each_others() {
    explore(|| {
        let budget = Budget::new(LIMIT);
        let takers: Vec<_> = (0..4)
            .map(|taker| {
                let budget = Arc::clone(&budget);
                spawn(move || {
                    for _ in 0..2 {
                        let (permit, most) = if taker % 2 == 0 {
                            (Some(wait_for(&budget, budget.body_bytes_max())), budget.limit())
                        } else {
                            (budget.try_copy(6), budget.limit() - budget.body_bytes_max())
                        };
                        assert!(budget.used() <= budget.limit(), "{budget:?}");
                        assert!(permit.is_none_or(|permit| permit.bytes() <= most));
                    }
                })
            })
            .collect();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(budget.used(), 0);
    });
}
