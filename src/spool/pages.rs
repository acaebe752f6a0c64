//! Tables of fixed-size items in pages with a checksum each, so that one item is read without the rest and yet is checked.

use std::io;

use super::{
    format::{Table, checksum, u32_at},
    fs::File,
};

/// Bytes of a page: a checksum, then whole items, then zeros. The last one ends behind its last item.
const PAGE: usize = 4096;
const CRC: usize = 4;

/// How many items a page holds.
fn per_page(item_bytes: usize) -> usize {
    (PAGE - CRC) / item_bytes
}

/// Appends `items`, one behind the other in `bytes`, to what is to be written from `offset` on.
pub(crate) fn write_table(out: &mut Vec<u8>, offset: u64, bytes: &[u8], item_bytes: usize) -> Table {
    let table = Table { offset: offset + out.len() as u64, items: (bytes.len() / item_bytes) as u64 };
    for (number, items) in bytes.chunks(per_page(item_bytes) * item_bytes).enumerate() {
        let start = out.len();
        out.extend_from_slice(&page_crc(number as u64, items).to_le_bytes());
        out.extend_from_slice(items);
        if (number + 1) * per_page(item_bytes) * item_bytes < bytes.len() {
            out.resize(start + PAGE, 0);
        }
    }
    table
}

fn page_crc(number: u64, items: &[u8]) -> u32 {
    checksum(&[&number.to_le_bytes(), items])
}

/// Reads items of one table, and keeps the page that it read last.
#[derive(Debug)]
pub(crate) struct Pages {
    table: Table,
    item_bytes: usize,
    /// Which page, and its items.
    last: Option<(u64, Vec<u8>)>,
}

impl Pages {
    pub(crate) fn new(table: Table, item_bytes: usize) -> Self {
        Self { table, item_bytes, last: None }
    }

    pub(crate) fn items(&self) -> u64 {
        self.table.items
    }

    /// The bytes of the item at `index`, which is less than [`Pages::items`].
    ///
    /// # Errors
    ///
    /// `InvalidData` if its page is damaged.
    pub(crate) fn item(&mut self, file: &dyn File, index: u64) -> io::Result<&[u8]> {
        let per_page = per_page(self.item_bytes) as u64;
        let page = index / per_page;
        if self.last.as_ref().is_none_or(|(number, _)| *number != page) {
            let items = (self.table.items - page * per_page).min(per_page) as usize;
            self.last = Some((page, self.read(file, page, items)?));
        }
        let items = self.last.as_ref().map_or(&[][..], |(_, items)| items);
        let start = (index % per_page) as usize * self.item_bytes;
        Ok(&items[start..start + self.item_bytes])
    }

    fn read(&self, file: &dyn File, page: u64, items: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; CRC + items * self.item_bytes];
        file.read_exact_at(&mut bytes, self.table.offset + page * PAGE as u64)?;
        let crc = u32_at(&bytes, 0);
        bytes.drain(..CRC);
        if page_crc(page, &bytes) != crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a page of a segment's index is damaged"));
        }
        Ok(bytes)
    }

    /// The first index in `from..to` for which `before` is false; it is true for all items before that one.
    pub(crate) fn partition(
        &mut self,
        file: &dyn File,
        (mut from, mut to): (u64, u64),
        before: impl Fn(&[u8]) -> bool,
    ) -> io::Result<u64> {
        while from < to {
            let middle = from + (to - from) / 2;
            if before(self.item(file, middle)?) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        Ok(from)
    }
}
