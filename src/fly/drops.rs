//! What the client dropped because too much waited, told from two counts alone: of what came, and of what we took of it.
//!
//! The client says that it dropped something by an event, and forgets some of these. But whatever came and was not taken either waits,
//! or was dropped. So at a moment when nothing waits the difference is what was dropped, and while something does
//! it is at least that less what may wait. That both counts grow alike says nothing: so does a backlog that stays as long as it is.

/// The client counts a message before it hands it over, and another core may see the two in the other order: so many of those that
/// came last may be on their way yet.
const ON_THE_WAY: u64 = 16;
/// After so many looks at which nothing had come and nothing waited, nothing is on its way.
const QUIET_LOOKS: u32 = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) came: u64,
    pub(super) taken: u64,
}

impl Counts {
    fn missing(self) -> u64 {
        self.came.saturating_sub(self.taken)
    }
}

/// What is known of it. Never more than was dropped; all of it when nothing comes for a while, or for good.
#[derive(Debug, Default)]
pub(super) struct Drops {
    known: u64,
    /// As it stood when it was last found that nothing waits.
    empty: Counts,
    /// Whether that was found since the last look.
    is_fresh: bool,
    last: Counts,
    quiet_looks: u32,
}

impl Drops {
    /// Nothing waits. What came was counted before that was found.
    pub(super) fn nothing_waits(&mut self, counts: Counts) {
        (self.empty, self.is_fresh) = (counts, true);
    }

    /// Messages that turn out to have been dropped; of what is not taken `waiting_max` may wait at most.
    pub(super) fn look(&mut self, counts: Counts, waiting_max: u64) -> u64 {
        let is_quiet = std::mem::take(&mut self.is_fresh) && self.empty == counts && self.last == counts;
        self.last = counts;
        self.quiet_looks = if is_quiet { self.quiet_looks.saturating_add(1) } else { 0 };
        if self.quiet_looks >= QUIET_LOOKS {
            return self.know(counts.missing());
        }
        let beyond_what_waits = counts.missing().saturating_sub(waiting_max);
        self.know(self.empty.missing().max(beyond_what_waits).saturating_sub(ON_THE_WAY))
    }

    /// As [`Drops::look`], when everything was taken and nothing comes any more.
    pub(super) fn over(&mut self, counts: Counts) -> u64 {
        self.know(counts.missing())
    }

    fn know(&mut self, dropped: u64) -> u64 {
        let new = dropped.saturating_sub(self.known);
        self.known += new;
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAITING_MAX: u64 = 100;

    fn counts(came: u64, taken: u64) -> Counts {
        Counts { came, taken }
    }

    #[test]
    fn what_waits_under_steady_flow_is_not_lost() {
        let mut drops = Drops::default();
        for look in 1..100 {
            let came = 1000 * look;
            // Nothing waited for a moment, and the same backlog stands at every look.
            drops.nothing_waits(counts(came - 500, came - 500));
            assert_eq!(drops.look(counts(came, came - 50), WAITING_MAX), 0);
        }
    }

    #[test]
    fn what_waits_while_the_drain_takes_nothing_is_not_lost_however_long() {
        let mut drops = Drops::default();
        drops.nothing_waits(counts(10, 10));
        let lost: u64 = (0..100).map(|_| drops.look(counts(110, 10), WAITING_MAX)).sum();
        assert_eq!(lost, 0);
        assert_eq!(drops.look(counts(1110 + ON_THE_WAY, 10), WAITING_MAX), 1000);
    }

    #[test]
    fn what_was_dropped_under_steady_flow_is_known_when_nothing_waits_for_a_moment() {
        let mut drops = Drops::default();
        drops.nothing_waits(counts(5_000, 4_000));
        assert_eq!(drops.look(counts(5_050, 4_010), WAITING_MAX), 1_000 - ON_THE_WAY);
        drops.nothing_waits(counts(6_000, 4_990));
        assert_eq!(drops.look(counts(6_050, 5_030), WAITING_MAX), 10);
    }

    #[test]
    fn the_last_few_are_known_when_it_is_quiet_and_no_sooner() {
        let mut drops = Drops::default();
        let look = |drops: &mut Drops, is_empty: bool| {
            if is_empty {
                drops.nothing_waits(counts(20, 15));
            }
            drops.look(counts(20, 15), WAITING_MAX)
        };
        let early: u64 = (0..QUIET_LOOKS).map(|_| look(&mut drops, true)).sum();
        assert_eq!((early, look(&mut drops, false)), (0, 0), "nobody looked whether something waits");
        let early: u64 = (0..QUIET_LOOKS - 1).map(|_| look(&mut drops, true)).sum();
        assert_eq!((early, look(&mut drops, true), look(&mut drops, true)), (0, 5, 0));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Come(u64),
        Take(u64),
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..200_u64).prop_map(Step::Come),
            3 => (0..200_u64).prop_map(Step::Take),
            2 => Just(Step::Look),
        ]
    }

    proptest! {
        #[test]
        fn never_more_is_lost_than_was_dropped_and_in_the_end_as_much(
            steps in proptest::collection::vec(step(), 0..200),
            on_the_way in 0..=ON_THE_WAY,
        ) {
            let (mut came, mut taken, mut waiting, mut dropped) = (0, 0, 0, 0);
            let (mut drops, mut lost) = (Drops::default(), 0);
            for step in steps {
                match step {
                    Step::Come(messages) => {
                        came += messages;
                        let handed_over = came.saturating_sub(on_the_way).saturating_sub(taken + waiting + dropped);
                        let fit = handed_over.min(WAITING_MAX - waiting);
                        (waiting, dropped) = (waiting + fit, dropped + handed_over - fit);
                    }
                    Step::Take(messages) => {
                        let messages = messages.min(waiting);
                        (waiting, taken) = (waiting - messages, taken + messages);
                    }
                    Step::Look => lost += drops.look(counts(came, taken), WAITING_MAX),
                }
                if waiting == 0 {
                    drops.nothing_waits(counts(came, taken));
                }
                // What is on its way for ten looks in a row is beyond what can be told.
                drops.quiet_looks = drops.quiet_looks.min(QUIET_LOOKS - 2);
                prop_assert!(lost <= dropped, "{lost} of {dropped}");
            }
            taken += waiting;
            dropped = came - taken;
            lost += drops.over(counts(came, taken));
            prop_assert_eq!(lost, dropped);
        }
    }
}
