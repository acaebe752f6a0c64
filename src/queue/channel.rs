//! The flume channel in which a queue's items wait for a reader to come.

use flume::{Receiver, Sender};

use super::Item;

/// A channel that held more than so many items goes when it is empty, because flume's never shrinks.
const KEPT_ITEMS_MAX: usize = 16;

/// Items that wait, the oldest first. Most queues of most machines have a reader there or nothing to hold, so the channel itself
/// is made when the first item must wait. How much may wait is the queue's to bound.
#[derive(Debug, Default)]
pub(super) struct Channel {
    ends: Option<Box<Ends>>,
    len: usize,
}

#[derive(Debug)]
struct Ends {
    sender: Sender<Item>,
    receiver: Receiver<Item>,
    /// The most that this channel has held.
    len_most: usize,
}

impl Ends {
    fn new() -> Self {
        let (sender, receiver) = flume::unbounded();
        Self { sender, receiver, len_most: 0 }
    }
}

impl Channel {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, item: Item) {
        let ends = self.ends.get_or_insert_with(|| Box::new(Ends::new()));
        ends.sender.send(item).expect("the receiver is held beside it");
        self.len += 1;
        ends.len_most = ends.len_most.max(self.len);
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        if self.is_empty() {
            return None;
        }
        let ends = self.ends.as_ref()?;
        let item = ends.receiver.try_recv().ok()?;
        self.len -= 1;
        if self.len == 0 && ends.len_most > KEPT_ITEMS_MAX {
            *self = Self::default();
        }
        Some(item)
    }

    /// The first that `look` finds something in. A channel cannot be looked into, so everything is taken out and put back.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "the server is who asks"))]
    pub(super) fn find<T>(&mut self, look: impl Fn(&Item) -> Option<T>) -> Option<T> {
        let items: Vec<Item> = std::iter::from_fn(|| self.pop()).collect();
        let found = items.iter().find_map(look);
        items.into_iter().for_each(|item| self.push(item));
        found
    }
}

#[cfg(test)]
impl Channel {
    pub(super) fn is_made(&self) -> bool {
        self.ends.is_some()
    }
}
