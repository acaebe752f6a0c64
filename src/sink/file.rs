//! The sink `file`: lines in files of a directory, which are complete when they have their name.
//!
//! A file is written as `.NAME.part` and gets its name when it is full, old, or the drain ends: who collects files never meets
//! half a one. A parcel is one write and one sync for each file that its lines go to, compressed one frame for each, and is
//! taken only when they are synced. It is a large one where lines are many: a sync costs the same for a few. What a crash leaves
//! is cut to its last whole line, or frame, and completed before anything else is written. Nobody else writes below the
//! directory: it is locked.

mod direct;
mod directory;
mod disk;
mod part;
mod recover;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep},
};

use self::{
    directory::{Bounds, Directory, Outcome},
    disk::{Disk, Real},
};
use super::{
    BadSetting, Delivery, Destination, Encoding, Failure, MadeFor, Parcel, ParcelBounds, Sink, aside,
    compress::Compression,
    lots::{Lot, split},
    template::Template,
    unavailable,
};
use crate::config::value::{de_duration, de_size, format_size};

/// How often is looked for files that are old enough.
const TICK: Duration = Duration::from_secs(1);

/// The least that a file may be bounded by: a parcel would fill many.
const BYTES_MIN: usize = 64 << 10;

/// Of the records of a parcel, unless it is set: such of 4 MiB cost a million lines 0.04 to 0.08 CPU seconds more.
const PARCEL_BYTES: usize = 16 << 20;

/// Bytes of the buffers that are kept from one parcel to the next: one for each file, or they would grow anew.
const SPARE_BYTES: usize = 48 << 20;

/// Ticks without a parcel after which none are.
const SPARE_TICKS: u32 = 10;

/// A buffer that was filled by less than this part of it is not kept: what one burst needs is not to be held for a trickle.
const SPARE_PART: usize = 8;

/// `type = "file"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where everything is written; made if it is not there. This sink's alone.
    directory: PathBuf,
    /// The files' names in it.
    #[serde(default = "default_path")]
    path: String,
    #[serde(default)]
    compression: Compression,
    /// When a file is complete: at this size as it is on the disk…
    #[serde(default = "default_file_bytes", deserialize_with = "de_size")]
    file_bytes_max: usize,
    /// …or this long after its first line.
    #[serde(default = "default_file_age", deserialize_with = "de_duration")]
    file_age_max: Duration,
}

fn default_path() -> String {
    "{app}/{date}.ndjson".to_owned()
}

fn default_file_bytes() -> usize {
    256 << 20
}

fn default_file_age() -> Duration {
    Duration::from_secs(3600)
}

impl Settings {
    fn make_on(&self, made_for: &MadeFor, disk: Arc<dyn Disk>) -> Result<FileSink, BadSetting> {
        let bad = |key, problem| Err(BadSetting { key, problem });
        if !self.directory.is_absolute() {
            return bad("directory", format!("{:?} is no absolute path", self.directory));
        }
        if self.file_bytes_max < BYTES_MIN {
            let (given, least) = (format_size(self.file_bytes_max), format_size(BYTES_MIN));
            return bad("file_bytes_max", format!("{given} is less than {least}"));
        }
        if self.file_age_max < TICK {
            return bad("file_age_max", format!("{:?} is less than {TICK:?}", self.file_age_max));
        }
        let target = Target {
            directory: self.directory.clone(),
            template: self.template()?,
            encoding: made_for.encoding,
            compression: self.compression,
            bounds: Bounds { bytes: self.file_bytes_max as u64, age: self.file_age_max },
            disk,
        };
        Ok(FileSink { target: Arc::new(target), state: Arc::default() })
    }

    fn template(&self) -> Result<Template, BadSetting> {
        let bad = |problem: String| BadSetting { key: "path", problem: format!("{:?}: {problem}", self.path) };
        let template = Template::parse(&self.path, false).map_err(|problem| bad(problem.to_string()))?;
        // By its ending is known how a file of the last run is to be read.
        match template.ending() {
            None => Err(bad("it must have an ending such as .ndjson".to_owned())),
            Some(ending)
                if ending != self.compression.ending() && Compression::of_name(ending) != Compression::None =>
            {
                Err(bad(format!("its ending {ending} is not that of the compression")))
            }
            Some(_) => Ok(template),
        }
    }
}

impl Destination for Settings {
    type Sink = FileSink;

    fn make(&self, made_for: &MadeFor) -> Result<FileSink, BadSetting> {
        self.make_on(made_for, Arc::new(Real))
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.directory)
    }

    fn parcel_defaults(&self) -> ParcelBounds {
        // Each is a sync of every file that it has lines for. All of it may be for one file, which is to be no larger than it may.
        let bytes = (self.file_bytes_max / 2).clamp(BYTES_MIN, PARCEL_BYTES);
        ParcelBounds { lines: 50_000, bytes, age: Duration::from_secs(1) }
    }
}

/// Files in a directory.
pub(crate) struct FileSink {
    target: Arc<Target>,
    state: Arc<Mutex<State>>,
}

/// Where lines are written, and how.
#[derive(Debug)]
struct Target {
    directory: PathBuf,
    template: Template,
    encoding: Encoding,
    compression: Compression,
    bounds: Bounds,
    disk: Arc<dyn Disk>,
}

/// What one delivery at a time has for itself, on a thread that may wait for the disk.
#[derive(Default)]
struct State {
    /// Opened with the first parcel: settings are made, and looked at, without it.
    directory: Option<Directory>,
    /// The buffers of the last parcel's lots, by their names.
    spare: HashMap<String, Vec<u8>>,
    ticks_idle: u32,
    keeper: Option<JoinHandle<()>>,
}

impl FileSink {
    /// Runs `work` where it may wait. Goes on if nobody waits for it any more, and whoever comes next waits for its end.
    async fn blocking<T: Send + 'static>(
        state: OwnedMutexGuard<State>,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let work = move || {
            let mut state = state;
            work(&mut state)
        };
        aside(work).await
    }

    /// Completes files when they are old, lines or not.
    fn keep(&self, state: &mut State) {
        if state.keeper.is_none() {
            state.keeper = Some(tokio::spawn(keep(Arc::downgrade(&self.state))));
        }
    }
}

impl Sink for FileSink {
    fn open(&self) -> Delivery<'_> {
        Box::pin(async move {
            let state = Arc::clone(&self.state).lock_owned().await;
            let target = Arc::clone(&self.target);
            let open = move |state: &mut State| state.open(&target).map(drop).map_err(|error| target.failure(&error));
            Self::blocking(state, open).await?
        })
    }

    fn deliver<'a>(&'a self, parcel: &'a Parcel) -> Delivery<'a> {
        Box::pin(async move {
            let mut state = Arc::clone(&self.state).lock_owned().await;
            self.keep(&mut state);
            let (target, parcel) = (Arc::clone(&self.target), parcel.clone());
            Self::blocking(state, move |state| state.deliver(&target, &parcel)).await?
        })
    }

    fn probe(&self) -> Delivery<'_> {
        let directory = self.target.directory.clone();
        Box::pin(async move {
            let probed = spawn_blocking(move || Directory::probe(&directory)).await;
            probed
                .unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
                .map_err(|error| self.target.failure(&error))
        })
    }

    /// A file's lines are to be in the order in which they were received.
    fn concurrency_max(&self) -> usize {
        1
    }

    fn close(&self) -> Delivery<'_> {
        Box::pin(async move {
            let mut state = Arc::clone(&self.state).lock_owned().await;
            state.keeper.take().inspect(JoinHandle::abort);
            let target = Arc::clone(&self.target);
            Self::blocking(state, move |state| {
                // Whatever becomes of them, the next may have the directory: what is left is completed there.
                let Some(mut directory) = state.directory.take() else { return Ok(()) };
                directory.complete_all().map_err(|error| target.failure(&error))
            })
            .await?
        })
    }
}

async fn keep(state: Weak<Mutex<State>>) {
    loop {
        sleep(TICK).await;
        let Some(state) = state.upgrade() else { return };
        let mut state = state.lock_owned().await;
        state.tick();
        let now = Instant::now();
        if state.directory.as_ref().is_some_and(|directory| directory.is_due(now)) {
            let complete = move |state: &mut State| {
                if let Some(directory) = &mut state.directory {
                    directory.complete_due(now);
                }
            };
            let _ = FileSink::blocking(state, complete).await;
        }
    }
}

impl State {
    fn deliver(&mut self, target: &Target, parcel: &Parcel) -> Result<(), Failure> {
        self.ticks_idle = 0;
        let Self { directory, spare, .. } = &mut *self;
        let begin = |name: &str| {
            let mut buffer = spare.remove(name).or_else(|| take_any(spare)).unwrap_or_default();
            if let Some(directory) = directory {
                directory.begin(name, &mut buffer);
            }
            buffer
        };
        let lots = split(parcel, &target.template, target.encoding, false, begin);
        self.write(target, lots)
    }

    fn write(&mut self, target: &Target, mut lots: Vec<Lot>) -> Result<(), Failure> {
        let outcome = self.open(target).map(|directory| directory.write(&mut lots));
        let lots_left = outcome.as_ref().map_or(0, |outcome| outcome.failed.len());
        let result = match outcome {
            Ok(Outcome { error: None, .. }) => Ok(()),
            Ok(Outcome { error: Some(error), failed }) if failed.len() < lots.len() => {
                let mut again: Vec<usize> = failed.iter().flat_map(|&lot| &lots[lot].places).copied().collect();
                again.sort_unstable();
                Err(Failure::Partly { again, never: Vec::new(), reason: target.reason(&error), retry_after: None })
            }
            Ok(Outcome { error: Some(error), .. }) | Err(error) => Err(target.failure(&error)),
        };
        if lots_left > 0 && !target.directory.exists() {
            // Somebody has removed it, with all that was in it.
            self.directory = None;
        }
        self.give_back(lots);
        result
    }

    fn open(&mut self, target: &Target) -> io::Result<&mut Directory> {
        match &mut self.directory {
            Some(directory) => Ok(directory),
            none => {
                let directory = Directory::open(&target.directory, target.compression, target.bounds, &target.disk)?;
                Ok(none.insert(directory))
            }
        }
    }

    fn give_back(&mut self, lots: Vec<Lot>) {
        self.spare.clear();
        let mut kept = 0;
        for Lot { name, mut buffer, .. } in lots {
            let bytes = buffer.capacity();
            if kept + bytes <= SPARE_BYTES && buffer.len() >= bytes / SPARE_PART {
                kept += bytes;
                buffer.clear();
                self.spare.insert(name, buffer);
            }
        }
    }

    /// A second has gone by.
    fn tick(&mut self) {
        self.ticks_idle += 1;
        if self.ticks_idle > SPARE_TICKS {
            self.spare = HashMap::new();
        }
    }
}

/// Names change, as at midnight: one buffer is then as good as another.
fn take_any(spare: &mut HashMap<String, Vec<u8>>) -> Option<Vec<u8>> {
    let name = spare.keys().next()?.clone();
    spare.remove(&name)
}

impl Target {
    fn failure(&self, error: &io::Error) -> Failure {
        use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
        let reason = self.reason(error);
        match error.kind() {
            PermissionDenied | ReadOnlyFilesystem | NotADirectory | ResourceBusy => Failure::Denied { reason },
            _ => unavailable(reason),
        }
    }

    fn reason(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.directory.display())
    }
}
