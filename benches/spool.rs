//! `spool`: append and sync, beside the floor that the disk sets.
//!
//! ```sh
//! cargo bench --bench spool
//! ```
//!
//! Records of 340 KB, as 1,000 lines of Fly's shape make, of 333 machines. One appender waits for each record before the next;
//! of sixteen each waits for its own, so that they share syncs. The floor writes the same bytes one after the other into files
//! of the same size and syncs after each record (`one at a time`) or after sixteen (`sixteen at a time`). Everything is in a
//! directory of its own below `SPOOL_BENCH_DIR`, by default the system's for temporary files: not on a disk in memory.

#![allow(clippy::unwrap_used, reason = "a panic here is the bench's failure report")]
#![allow(missing_docs, reason = "criterion's macros write public items")]

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use fleetdrain::spool::{Bounds, Lines, NewRecord, Spool};
use jiff::Timestamp;

const BODY: usize = 340_000;
const APPENDERS: u64 = 16;
const SEGMENT: u64 = 16 << 20;
/// What a bench keeps on the disk.
const KEEP: u64 = 64 * SEGMENT;

fn dir(name: &str) -> PathBuf {
    let base = std::env::var_os("SPOOL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("fleetdrain-bench-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn body() -> Bytes {
    // Seeded, and not to be compressed by a disk that does.
    let mut state = 1u64;
    let byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(byte).take(BODY).collect::<Vec<_>>().into()
}

/// The floor: files of a segment's size, written from the first byte to the last.
struct Floor<'a> {
    dir: &'a Path,
    file: Option<File>,
    written: u64,
    files: u64,
}

impl Floor<'_> {
    fn write(&mut self, body: &[u8]) {
        if self.file.is_none() || self.written + body.len() as u64 > SEGMENT {
            let path = |number: u64| self.dir.join(format!("floor-{number}"));
            let mut options = OpenOptions::new();
            self.file = Some(options.create(true).truncate(true).write(true).open(path(self.files)).unwrap());
            if let Some(old) = self.files.checked_sub(KEEP / SEGMENT) {
                std::fs::remove_file(path(old)).unwrap();
            }
            (self.written, self.files) = (0, self.files + 1);
        }
        self.file.as_ref().unwrap().write_all_at(body, self.written).unwrap();
        self.written += body.len() as u64;
    }

    fn sync(&self) {
        self.file.as_ref().unwrap().sync_data().unwrap();
    }
}

fn floor(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, at_a_time: u64) {
    let (dir, body) = (dir("floor"), body());
    let mut floor = Floor { dir: &dir, file: None, written: 0, files: 0 };
    group.bench_function(name, |bench| {
        bench.iter_custom(|records| {
            let started = Instant::now();
            for record in 1..=records {
                floor.write(&body);
                if record % at_a_time == 0 || record == records {
                    floor.sync();
                }
            }
            started.elapsed()
        });
    });
    std::fs::remove_dir_all(&dir).unwrap();
}

fn spool(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, appenders: u64) {
    let (dir, body) = (dir("spool"), body());
    let spool = Spool::open(&dir, Bounds { segment_bytes: SEGMENT, ..Bounds::new(KEEP) }, None).unwrap();
    let names: Vec<_> = (0..333).map(|machine| format!("{machine:014x}")).collect();
    let machines: Vec<_> = names.iter().map(|name| (name.as_str(), Lines([3, 0, 0, 0]))).collect();
    let append = |records: u64| {
        for _ in 0..records {
            let record = NewRecord {
                body: body.clone(),
                received_at: Timestamp::now(),
                lines: 999,
                machines: &machines,
                key: b"",
            };
            spool.append(&record).unwrap().wait().unwrap();
        }
    };
    group.bench_function(name, |bench| {
        bench.iter_custom(|records| {
            let started = Instant::now();
            std::thread::scope(|scope| {
                for appender in 0..appenders {
                    let share = records / appenders + u64::from(appender < records % appenders);
                    scope.spawn(move || append(share));
                }
            });
            started.elapsed()
        });
    });
    spool.shut();
    std::fs::remove_dir_all(&dir).unwrap();
}

fn append_and_sync(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spool");
    group.throughput(Throughput::Bytes(BODY as u64)).sample_size(20).measurement_time(Duration::from_secs(8));
    spool(&mut group, "1 appender", 1);
    floor(&mut group, "floor: write and fdatasync, one at a time", 1);
    spool(&mut group, "16 appenders", APPENDERS);
    floor(&mut group, "floor: write and fdatasync, sixteen at a time", APPENDERS);
    group.finish();
}

criterion_group!(benches, append_and_sync);
criterion_main!(benches);
