//! What a reader holds of a queue: lines that were taken and are still to be yielded.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    batch::{EntryView, LogEntry},
    queue::{Item, Queue},
};

/// Lines in a reader's hands, in order. Those that it does not yield are given back when this is dropped.
pub(super) struct Held {
    queue: Arc<Queue>,
    items: VecDeque<Item>,
    /// Lines that were shown, and their bytes: still to be counted as delivered.
    shown: (u64, usize),
}

impl Held {
    pub(super) fn new(queue: &Arc<Queue>) -> Self {
        Self { queue: Arc::clone(queue), items: VecDeque::new(), shown: (0, 0) }
    }

    /// Holds `item`, which comes behind all that it holds.
    pub(super) fn push(&mut self, item: Item) {
        self.items.push_back(item);
    }

    /// Whether no line is left.
    pub(super) fn is_empty(&self) -> bool {
        self.lines() == 0
    }

    /// Lines left.
    pub(super) fn lines(&self) -> u64 {
        self.items.iter().map(|item| item.lines).sum()
    }

    /// With what it holds takes what comes behind that, as much as is read together; not for more than about `most` lines.
    pub(super) fn take_more(&mut self, most: u64) {
        self.queue.take_more(&mut self.items, most);
    }

    /// The next line, which is delivered with the next call of [`Held::deliver`].
    pub(super) fn show(&mut self) -> Option<EntryView<'_>> {
        self.drop_read();
        let streams = self.queue.terms.streams;
        let item = self.items.front_mut()?;
        let before = item.bytes;
        let index = item.next_row(streams)?;
        if item.lines == 0 {
            item.bytes = 0;
        }
        self.shown = (self.shown.0 + 1, self.shown.1 + before - item.bytes);
        Some(item.batch.view(index))
    }

    /// The next line, which is delivered with this call.
    pub(super) fn next_entry(&mut self) -> Option<LogEntry> {
        let entry = self.show().map(|view| view.to_entry());
        self.deliver();
        entry
    }

    /// What was shown is delivered.
    pub(super) fn deliver(&mut self) {
        self.drop_read();
        let (lines, bytes) = std::mem::take(&mut self.shown);
        if lines > 0 {
            self.queue.deliver(lines, bytes);
        }
    }

    /// The first lines left, which are no longer given back.
    pub(super) fn take(&mut self) -> Option<Item> {
        self.drop_read();
        self.items.pop_front()
    }

    fn drop_read(&mut self) {
        while self.items.pop_front_if(|item| item.lines == 0).is_some() {}
    }

    /// Keeps no room for more than it holds: a wait may be long.
    pub(super) fn shrink(&mut self) {
        self.drop_read();
        self.items.shrink_to_fit();
    }

    /// Lets go of other machines' bytes before a wait.
    pub(super) fn keep_copies(&mut self) {
        self.drop_read();
        let items = std::mem::take(&mut self.items);
        self.items = items.into_iter().map(|item| self.queue.own_copy(item)).collect();
    }

    /// Gives back what was not shown; the next reader gets it first.
    pub(super) fn give_back(&mut self) {
        self.deliver();
        self.queue.give_back(self.items.drain(..));
    }
}

#[cfg(test)]
impl Held {
    /// Bodies for which there is room.
    pub(super) fn room(&self) -> usize {
        self.items.capacity()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}
