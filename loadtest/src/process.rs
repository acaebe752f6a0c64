//! Servers as child processes: pinned, listened to, measured, ended.

use crate::failure::Failure;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// How long a server may take to say where it listens.
const START_WAIT: Duration = Duration::from_secs(20);

/// A child that serves; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) ingest: String,
    child: Child,
}

impl Server {
    /// Starts `command` on `cpu` (if given and possible) and waits until it listens.
    pub(crate) fn start(name: &str, mut command: Command, cpu: Option<usize>) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::unavailable(format!("{name}: {error}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // The child inherits the affinity of the thread that spawns it: set afterwards, it would miss the threads
        // that a quick runtime has started by then.
        let child = pinned(cpu, || command.spawn()).map_err(|error| failed(&error))?;
        let mut server = Self { name: name.to_owned(), ingest: String::new(), child };
        let stderr = server.child.stderr.take().ok_or_else(|| failed(&"no stderr"))?;
        server.ingest = ingest_url(&listen_to(stderr)).ok_or_else(|| failed(&"never said where it listens"))?;
        Ok(server)
    }

    /// User and system time of the whole process so far, to a clock tick (10 ms).
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).map_err(|error| Failure::io(format!("{path}: {error}")))?;
        let ticks = cpu_ticks(&stat).ok_or_else(|| Failure::io(format!("{path}: not understood")))?;
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Waits until the process has rested for a moment: what it does after its last answer belongs to the lines too.
    pub(crate) fn cpu_at_rest(&self) -> Result<Duration, Failure> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut before = self.cpu()?;
        loop {
            std::thread::sleep(Duration::from_millis(150));
            let now = self.cpu()?;
            if now == before || Instant::now() > deadline {
                return Ok(now);
            }
            before = now;
        }
    }

    /// Resident memory in bytes, 0 where it cannot be read.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        pages * rustix::param::page_size() as u64
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Utime and stime of a `/proc/PID/stat`; the name before them may hold blanks and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ').skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

/// Reads the child's stderr to its end in a thread, or it would block once the pipe is full.
fn listen_to(stderr: ChildStderr) -> Receiver<String> {
    let (lines, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // Nobody listens once the address is known.
            let _ = lines.send(line);
        }
    });
    heard
}

fn ingest_url(heard: &Receiver<String>) -> Option<String> {
    let deadline = Instant::now() + START_WAIT;
    let mut said = Vec::new();
    while let Ok(line) = heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some((_, url)) = line.split_once("ingest listening on ") {
            return Some(url.trim().to_owned());
        }
        said.push(line);
    }
    for line in said.iter().take(20) {
        eprintln!("  {line}");
    }
    None
}

/// Runs `action` with this thread on `cpu`, then lets it go back to where it was.
fn pinned<T>(cpu: Option<usize>, action: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).ok();
    if let Some(cpu) = cpu {
        pin(cpu);
    }
    let done = action();
    if let Some(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    done
}

/// Puts this thread, and those it starts, on `cpu`; false where that is not allowed.
pub(crate) fn pin(cpu: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).is_ok()
}

/// The CPUs this process may use.
pub(crate) fn cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "17 (a b) c) S 1 17 17 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 12345 1 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("17 (x"), None);
    }

    #[test]
    fn the_address_is_found_among_other_lines() {
        let (lines, heard) = mpsc::channel();
        for line in ["INFO starting", "2026 INFO ingest listening on http://127.0.0.1:4711"] {
            lines.send(line.to_owned()).unwrap();
        }
        assert_eq!(ingest_url(&heard).as_deref(), Some("http://127.0.0.1:4711"));
    }
}
