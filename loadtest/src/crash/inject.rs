//! Disks that fail: real syscalls of the real binary, by strace or a file system without room.

use crate::failure::Failure;
use crate::random::Random;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// What fails for a while in some of the drain's lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// Every sync fails.
    FsyncEio,
    /// One sync fails, and the next says that all is well: what a kernel does once it has told of a lost page.
    FsyncOnce,
    /// There is no room for any write.
    Enospc,
    /// Every write fails.
    WriteEio,
    /// A small file system that another fills up: writes are cut short before they fail. Needs root.
    FullDisk,
}

/// Of the file system that is filled: small, so that the drain comes to its end by itself, too; larger, so that it does not at once.
const SMALL_DISK: &str = "size=48m";
const LARGER_DISK: &str = "size=512m";
/// Who takes the room tries again after so long.
const FILL_EVERY: Duration = Duration::from_millis(2);

impl Fault {
    /// The calls that fail (see `src/spool/fs.rs`), and how.
    fn injected(self, random: &mut Random) -> Option<(&'static str, String)> {
        const SYNCS: &str = "fdatasync,fsync";
        const WRITES: &str = "pwritev,pwritev2,pwrite64,fallocate";
        Some(match self {
            Self::FsyncEio => (SYNCS, "error=EIO".to_owned()),
            Self::FsyncOnce => (SYNCS, format!("error=EIO:when={}", 1 + random.below(3))),
            Self::Enospc => (WRITES, "error=ENOSPC".to_owned()),
            Self::WriteEio => (WRITES, "error=EIO".to_owned()),
            Self::FullDisk => return None,
        })
    }

    /// Fails early where this machine cannot do it.
    pub(crate) fn check(self) -> Result<(), Failure> {
        let (program, argument, needs) = match self {
            Self::FullDisk => ("mount", "--version", "--inject full-disk mounts a tmpfs"),
            _ => ("strace", "--version", "--inject needs strace (Debian: apt-get install strace)"),
        };
        let ran = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
        match ran {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::usage(format!("{needs}: {program} ended with {status}"))),
            Err(error) => Err(Failure::usage(format!("{needs}: {program}: {error}"))),
        }
    }
}

/// A file system of its own under the run's directory.
#[derive(Debug)]
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(super) fn mount(at: &Path, larger: bool) -> Result<Self, Failure> {
        let size = if larger { LARGER_DISK } else { SMALL_DISK };
        let ran = Command::new("mount").args(["-t", "tmpfs", "-o", size, "fleetdrain-crash"]).arg(at).output();
        match ran.map_err(Failure::io)? {
            output if output.status.success() => Ok(Self(at.to_owned())),
            output => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(Failure::usage(format!("--inject full-disk must be allowed to mount a tmpfs: {said}")))
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A fault under way; dropping it ends it.
#[derive(Debug)]
pub(super) enum Episode {
    Traced { strace: Child, log: PathBuf },
    Filled { ballast: PathBuf, filler: Option<Filler> },
}

/// Takes what room there is again and again, until it is told to stop.
#[derive(Debug)]
pub(super) struct Filler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    fn start(mut file: File) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let piece = vec![0; 1 << 12];
            while !stopped.load(Relaxed) {
                while file.write_all(&piece).is_ok() && !stopped.load(Relaxed) {}
                std::thread::sleep(FILL_EVERY);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Episode {
    /// From now on `fault` is upon the process `pid`. `dir` is where the run may write beside the spool. `lasting`: what the drain
    /// gives up of a full disk is taken from it, too.
    pub(super) fn begin(
        fault: Fault,
        pid: Pid,
        dir: &Path,
        random: &mut Random,
        lasting: bool,
    ) -> Result<Self, Failure> {
        match fault.injected(random) {
            Some((calls, how)) => Self::trace(calls, &how, pid, &dir.join("strace.log")),
            None => Self::fill(&dir.join("ballast"), lasting),
        }
    }

    fn trace(calls: &str, how: &str, pid: Pid, log: &Path) -> Result<Self, Failure> {
        let mut strace = Command::new("strace")
            .args(["-f", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{how}"), "-o"])
            .arg(log)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::usage(format!("--inject needs strace: {error}")))?;
        let stderr = strace.stderr.take().ok_or_else(|| Failure::io("strace has no stderr"))?;
        let mut said = String::new();
        let mut stderr = BufReader::new(stderr);
        while !said.contains("attached") {
            match stderr.read_line(&mut said) {
                Ok(1..) => {}
                _ => return Err(Failure::usage(format!("strace may not trace the drain: {}", said.trim()))),
            }
        }
        // It tells of each new thread: a pipe that nobody reads would block it.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Ok(Self::Traced { strace, log: log.to_owned() })
    }

    fn fill(ballast: &Path, lasting: bool) -> Result<Self, Failure> {
        let mut file = File::create(ballast).map_err(Failure::io)?;
        for size in [1 << 20, 1 << 12] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(Self::Filled { ballast: ballast.to_owned(), filler: lasting.then(|| Filler::start(file)) })
    }

    /// Ends it. How many calls failed, as far as that is known.
    pub(super) fn end(mut self) -> u64 {
        self.stop();
        match &self {
            Self::Traced { log, .. } => {
                let log = std::fs::read(log).unwrap_or_default();
                memchr::memmem::find_iter(&log, b"(INJECTED)").count() as u64
            }
            Self::Filled { .. } => 1,
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Traced { strace, .. } => {
                // It lets go of the drain; if that is dead it has ended already.
                if let Ok(None) = strace.try_wait() {
                    let _ = kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT);
                }
                let _ = strace.wait();
            }
            Self::Filled { ballast, filler } => {
                // Ended first: who has the file open has its room.
                drop(filler.take());
                let _ = std::fs::remove_file(ballast);
            }
        }
    }
}

impl Drop for Episode {
    fn drop(&mut self) {
        self.stop();
    }
}
