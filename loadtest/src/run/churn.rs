//! Machines that finish and are replaced, as with one machine per job.

use super::Place;
use super::reader::{Reader, Told};
use super::sender::Swap;
use crate::generate::Machine;
use hyper::Method;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Replaces followed machines until the senders are done.
pub(super) struct Churner {
    /// The reader of a new machine is like this one.
    pub(super) template: Reader,
    pub(super) run: u32,
    pub(super) every: Duration,
    pub(super) at_a_time: usize,
    /// The places of the fleet whose machine has a reader.
    pub(super) followed: Vec<u32>,
    /// The number of the next new machine.
    pub(super) next: u32,
    pub(super) places: Vec<Place>,
    pub(super) swaps: Vec<mpsc::UnboundedSender<Swap>>,
}

/// What the churn leaves behind.
pub(super) struct Churned {
    /// Finished machines with what they had sent.
    pub(super) gone: Vec<Machine>,
    /// The new ones' readers.
    pub(super) readers: Vec<JoinHandle<Told>>,
}

impl Churner {
    pub(super) async fn run(mut self) -> Churned {
        let mut churned = Churned { gone: Vec::new(), readers: Vec::new() };
        let mut tick = tokio::time::interval(self.every);
        tick.tick().await;
        for turn in 0.. {
            if turn % self.at_a_time.max(1) == 0 {
                tick.tick().await;
            }
            let place = self.places[self.followed[turn % self.followed.len()] as usize];
            if self.over(place) || !self.replace(place, &mut churned).await {
                break;
            }
        }
        churned
    }

    fn over(&self, place: Place) -> bool {
        self.swaps[place.sender].is_closed()
    }

    /// Subscribe the new, swap, finish the old: in this order no line is without its reader. False once the senders
    /// are done.
    async fn replace(&mut self, place: Place, churned: &mut Churned) -> bool {
        let new = Machine::new(self.run, self.next);
        let reader = Reader {
            machine: Some(new.id),
            target: self.template.target.clone(),
            settings: self.template.settings.clone(),
            run: self.template.run,
            slow: self.template.settings.has_slow(self.next),
            number: self.next,
            meter: self.template.meter.clone(),
            sent: self.template.sent.clone(),
        };
        self.next += 1;
        let (ready, is_ready) = oneshot::channel();
        churned.readers.push(tokio::spawn(reader.read(ready)));
        // If it cannot subscribe it says so in the report, and its lines count as lost.
        let _ = tokio::time::timeout(Duration::from_secs(10), is_ready).await;
        let (gone, is_gone) = oneshot::channel();
        if self.swaps[place.sender].send(Swap { place: place.index, machine: new, gone }).is_err() {
            return false;
        }
        let Ok(gone) = is_gone.await else { return false };
        let path = format!("/api/v1/machines/{}", String::from_utf8_lossy(&gone.id));
        // A failed DELETE shows as a stream that never ends.
        let _ = self.template.target.call(Method::DELETE, &path).await;
        churned.gone.push(gone);
        true
    }
}
