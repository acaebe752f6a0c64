//! Lines that a store will never take: kept as they were sent, so that they can be posted again.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;

use super::Parcel;

/// The most that one sink's file holds.
const BYTES_MAX: u64 = 1 << 30;

/// A sink's file of records, one a line.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetters {
    path: Option<PathBuf>,
    bytes_max: u64,
}

impl DeadLetters {
    /// In `dir`, where there is one.
    pub(crate) fn new(dir: Option<&Path>, sink: &str) -> Self {
        Self { path: dir.map(|dir| dir.join(format!("dead-letters-{sink}.ndjson"))), bytes_max: BYTES_MAX }
    }

    /// Keeps a parcel's records, synced; says so in the log where they cannot be kept.
    pub(crate) async fn keep(&self, sink: &str, parcel: &Parcel, reason: &str) {
        let lines = parcel.lines();
        let Some(path) = self.path.clone() else {
            tracing::error!(
                sink,
                lines,
                reason,
                "the store will not take them, and there is no directory to keep them in"
            );
            return;
        };
        let mut text = Vec::with_capacity(parcel.bytes() as usize + lines);
        for entry in parcel.entries() {
            entry.write_raw(&mut text);
            text.push(b'\n');
        }
        let bytes_max = self.bytes_max;
        let at = path.clone();
        let kept = spawn_blocking(move || append(&at, &text, bytes_max)).await;
        match kept.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => tracing::warn!(sink, lines, reason, path = %path.display(), "kept what the store will not take"),
            Err(error) => {
                tracing::error!(sink, lines, reason, %error, path = %path.display(), "the store will not take them, and they cannot be kept");
            }
        }
    }
}

fn append(path: &Path, text: &[u8], bytes_max: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let before = file.metadata()?.len();
    if before + text.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::StorageFull, format!("it holds {before} of {bytes_max} bytes")));
    }
    let written = file.write_all(text).and_then(|()| file.sync_data());
    if written.is_err() {
        // No half a record before the next.
        file.set_len(before)?;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_can_be_posted_again_and_is_bounded() {
        let dir = crate::scratch::path("dead");
        std::fs::create_dir_all(&dir).unwrap();
        let letters = DeadLetters { bytes_max: 100, ..DeadLetters::new(Some(&dir), "archive") };
        let record = "{\"instance\":\"m\",\"message\":\"one more line\"}";
        let parcel = Parcel::of_body(record);
        for _ in 0..5 {
            letters.keep("archive", &parcel, "too odd").await;
        }
        let kept = std::fs::read_to_string(dir.join("dead-letters-archive.ndjson")).unwrap();
        assert_eq!(kept, format!("{record}\n{record}\n"));
        assert_eq!(Parcel::of_body(kept).lines(), 2);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
