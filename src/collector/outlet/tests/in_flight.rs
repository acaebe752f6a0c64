//! What is in flight by the counters, which is what came in less what was settled, against the lines themselves: those that wait, and
//! those that were taken.

use proptest::prelude::*;

use super::*;
#[cfg(feature = "spool")]
use crate::history::{FleetCursor, Next};

/// Lines that wait or were taken and are not done, each looked at where it is. Of what was taken all of it, whatever was told since.
pub(super) fn held(collector: &LogCollector, state: &OutletState) -> u64 {
    let inner = state.inner.lock();
    if let Source::Channel(channel) = &inner.source {
        let taken = inner.under_way.iter().filter_map(|taken| taken.run.as_ref());
        return channel.lines() + taken.map(|run| run.rows.len() as u64).sum::<u64>();
    }
    drop(inner);
    held_of_spool(collector, state)
}

#[cfg(not(feature = "spool"))]
fn held_of_spool(_: &LogCollector, _: &OutletState) -> u64 {
    unreachable!("without a spool there are channels alone")
}

/// Between the cursor and the end, as far as it is counted in; what it took; and what is to come back, and was counted in before.
#[cfg(feature = "spool")]
fn held_of_spool(collector: &LogCollector, state: &OutletState) -> u64 {
    let inner = state.inner.lock();
    let Source::Position(position) = &inner.source else { unreachable!("it is no channel") };
    let (mut cursor, counted) = (FleetCursor::at(position.seq(), position.line()), position.counted());
    let taken: Vec<_> = inner.under_way.iter().map(|taken| FleetCursor::at(taken.seq, taken.first_line)).collect();
    let carried = inner.tally.carried();
    drop(inner);
    let mut lines = carried;
    for mut cursor in taken {
        lines += wanted_next(collector, state, &mut cursor).map_or(0, |(_, lines)| lines);
    }
    while let Some((seq, wanted)) = wanted_next(collector, state, &mut cursor).filter(|(seq, _)| *seq < counted.end) {
        let is_counted = state.filter().is_none() || seq >= counted.start;
        lines += if is_counted { wanted } else { 0 };
    }
    lines
}

/// The number of the batch that comes next, and how many lines of it are wanted.
#[cfg(feature = "spool")]
fn wanted_next(collector: &LogCollector, state: &OutletState, cursor: &mut FleetCursor) -> Option<(u64, u64)> {
    let history = &collector.shared.history;
    loop {
        let next = match cursor.step(history)? {
            Next::Past => cursor.read_past(history),
            next => next,
        };
        if let Next::Lines(step) = next {
            let filter = state.filter();
            let wanted = (step.from..).zip(&step.batch.rows[step.from as usize..]);
            let wanted = wanted.filter(|(_, row)| filter.is_none_or(|filter| filter.wants(&step.batch.view_of(row))));
            return Some((step.batch.seq, wanted.count() as u64));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        stdout: u32,
        stderr: u32,
    },
    Take,
    /// Half of what was taken first is delivered.
    Part,
    Settle,
    Bury,
    HandOver,
    Return,
    Rewind,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u32, 0..6_u32).prop_map(|(stdout, stderr)| Step::Push { stdout, stderr }),
        4 => Just(Step::Take),
        1 => Just(Step::Part),
        4 => Just(Step::Settle),
        1 => Just(Step::Bury),
        1 => Just(Step::HandOver),
        1 => Just(Step::Return),
        1 => Just(Step::Rewind),
    ]
}

/// A sink's end, and what its sink has in hand: of each how much it has told.
struct Model {
    collector: LogCollector,
    outlet: Option<Outlet>,
    terms: OutletTerms,
    in_hand: VecDeque<(Taken, u64)>,
}

impl Model {
    fn new(collector: LogCollector, terms: OutletTerms) -> Self {
        let outlet = Some(collector.add_outlet(terms.clone()));
        Self { collector, outlet, terms, in_hand: VecDeque::new() }
    }

    fn outlet(&mut self) -> &mut Outlet {
        self.outlet.as_mut().expect("it is put back")
    }

    async fn go(&mut self, step: Step) {
        match step {
            Step::Push { stdout, stderr } => {
                let record = |stream| format!("{{\"instance\":\"m\",\"stream\":\"{stream}\",\"message\":\"x\"}}\n");
                let body = record("stdout").repeat(stdout as usize) + &record("stderr").repeat(stderr as usize);
                // A full end that blocks refuses it.
                let _ = self.collector.push(body).map(drop);
            }
            Step::Take => {
                let taken = match self.outlet().try_next() {
                    None if self.waits_on_disk() => self.outlet().next().await,
                    taken => taken,
                };
                self.in_hand.extend(taken.map(|taken| (taken, 0)));
            }
            Step::Part => {
                if let Some((taken, told)) = self.in_hand.front_mut() {
                    let part = (taken.run.rows.len() as u64 - *told) / 2;
                    *told += part;
                    self.outlet().state().delivered(part);
                }
            }
            Step::Settle => {
                if let Some((taken, told)) = self.in_hand.pop_front() {
                    let state = self.outlet().state();
                    state.delivered(taken.run.rows.len() as u64 - told);
                    state.done(taken.number);
                }
            }
            // What was told in part is not all given up.
            Step::Bury if self.in_hand.front().is_some_and(|(_, told)| *told > 0) => {}
            Step::Bury => {
                if let Some((taken, _)) = self.in_hand.pop_front() {
                    let state = self.outlet().state();
                    state.dropped(SinkReason::DeadLetter, &taken.run);
                    state.done(taken.number);
                }
            }
            Step::HandOver => {
                self.terms.filter = if self.terms.filter.is_some() { None } else { stderr_only() };
                self.in_hand.clear();
                self.outlet = self.outlet.take().map(|outlet| outlet.handed_over(self.terms.clone()));
            }
            Step::Return => {
                self.in_hand.clear();
                self.outlet = None;
                self.outlet = Some(self.collector.add_outlet(self.terms.clone()));
            }
            Step::Rewind => {
                #[cfg(feature = "spool")]
                let _ = self.outlet().state().rewind(Timestamp::UNIX_EPOCH, false);
            }
        }
    }

    /// Whether there is a line that comes without another being pushed.
    fn waits_on_disk(&mut self) -> bool {
        let in_hand: u64 = self.in_hand.iter().map(|(taken, _)| taken.run.rows.len() as u64).sum();
        let collector = self.collector.clone();
        let state = Arc::clone(self.outlet().state());
        let carried = state.inner.lock().tally.carried();
        held(&collector, &state) > in_hand + carried
    }

    fn check(&mut self) {
        let told: u64 = self.in_hand.iter().map(|(_, told)| told).sum();
        let collector = self.collector.clone();
        let found = held(&collector, self.outlet().state()) - told;
        assert_eq!(check_balance(&collector).lines_in_flight, found);
    }
}

fn run(model: &mut Model, steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for step in steps {
            model.go(*step).await;
            model.check();
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_in_flight_in_memory_is_what_waits_and_what_was_taken(
        steps in prop::collection::vec(step(), 0..60),
        is_filtered in any::<bool>(),
        blocks in any::<bool>(),
    ) {
        let full = if blocks { OutletFull::Block } else { OutletFull::DropNewest };
        let filter = if is_filtered { stderr_only() } else { None };
        run(&mut Model::new(small(|_| {}), terms(filter, full, 4_000)), &steps);
    }
}

#[cfg(feature = "spool")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_in_flight_over_a_spool_is_what_is_behind_the_cursor_and_what_was_taken(
        steps in prop::collection::vec(step(), 0..60),
        is_filtered in any::<bool>(),
    ) {
        let dir = spooled::Dir::new();
        let filter = if is_filtered { stderr_only() } else { None };
        let mut model = Model::new(dir.open(crate::spool::Bounds::new(1 << 30)), terms(filter, OutletFull::DropNewest, 1));
        run(&mut model, &steps);
        model.collector.close_spool();
    }
}
