//! Servers as child processes: pinned, listened to, measured, ended.

use crate::failure::Failure;
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a server may take to say where it listens; one with 100,000 subscriptions needs a moment.
const START_WAIT: Duration = Duration::from_secs(60);
/// How long a server may take to end once it was told to.
const END_WAIT: Duration = Duration::from_secs(20);
/// A server that used less CPU than this in [`REST`] is at rest: its own ticks take some.
const REST_CPU: Duration = Duration::from_millis(1);
const REST: Duration = Duration::from_millis(150);
/// So many of a server's last words are kept for the case that it dies.
const WORDS_KEPT: usize = 20;

/// A child that serves; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) ingest: String,
    /// Empty if it has none.
    pub(crate) control: String,
    child: Child,
    /// What it prints, once it has ended.
    printed: Receiver<String>,
    throttle: Option<Throttle>,
    words: Arc<Mutex<VecDeque<String>>>,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Where it may run; everywhere if empty.
    pub(crate) cpus: &'a [usize],
    /// Whether it says where its control listener is.
    pub(crate) has_control: bool,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(program: &'a Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { program, arguments, environment: Vec::new(), cpus: &[], has_control: false }
    }

    /// `fleetdrain serve` on free ports of loopback.
    pub(crate) fn drain(program: &'a Path) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"];
        Self { has_control: true, ..Self::new(program, &arguments) }
    }

    /// Sets a setting of the drain, as `memory.budget`.
    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        self.environment(&format!("FLEETDRAIN_{}", key.replacen('.', "__", 1).to_ascii_uppercase()), value)
    }

    pub(crate) fn environment(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(&self.arguments);
        // Our own environment must not configure what is measured.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("FLEETDRAIN_")) {
            command.env_remove(key);
        }
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Server {
    /// Starts it and waits until it listens.
    pub(crate) fn start(name: &str, launch: &Launch<'_>) -> Result<Self, Failure> {
        let (mut server, heard) = Self::spawn_heard(name, launch)?;
        let found = (|| {
            server.ingest = url(&heard, "ingest listening on ")?;
            if launch.has_control {
                server.control = url(&heard, "control listening on ")?;
            }
            Some(())
        })();
        match found {
            Some(()) => Ok(server),
            None => Err(server.explain(Failure::unavailable(format!("{name}: never said where it listens")))),
        }
    }

    /// Starts it and waits for nothing: where it listens is for the caller to know.
    pub(crate) fn spawn(name: &str, launch: &Launch<'_>) -> Result<Self, Failure> {
        Self::spawn_heard(name, launch).map(|(server, _)| server)
    }

    fn spawn_heard(name: &str, launch: &Launch<'_>) -> Result<(Self, Receiver<String>), Failure> {
        let failed = |error: &dyn Display| Failure::unavailable(format!("{name}: {error}"));
        let mut command = launch.command();
        // The child inherits the affinity of the thread that spawns it: set afterwards, it would miss the threads
        // that a quick runtime has started by then.
        let spawned = pinned(launch.cpus, || command.spawn());
        let mut child = spawned.map_err(|error| failed(&format!("{}: {error}", launch.program.display())))?;
        let stderr = child.stderr.take().ok_or_else(|| failed(&"no stderr"))?;
        let stdout = child.stdout.take().ok_or_else(|| failed(&"no stdout"))?;
        let words = Arc::default();
        let heard = listen_to(stderr, Arc::clone(&words));
        let (printed, name) = (read_all(stdout), name.to_owned());
        let (ingest, control) = (String::new(), String::new());
        Ok((Self { name, ingest, control, child, printed, throttle: None, words }, heard))
    }

    /// Sends it a signal and waits until it has ended, at most [`END_WAIT`].
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<ExitStatus, Failure> {
        let failed = |error: &dyn Display| Failure::io(format!("{}: {error}", self.name));
        kill(self.pid(), signal).map_err(|error| failed(&error))?;
        let deadline = Instant::now() + END_WAIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().map_err(|error| failed(&error))? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(failed(&format!("did not end within {END_WAIT:?} of {signal}")))
    }

    /// How it ended, if it did so by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// User and system time of the whole process so far, of threads that have ended too: the kernel's CPU clock of the
    /// process (`clock_getcpuclockid`), in nanoseconds. `/proc/PID/stat` has a grain of 10 ms, and `/proc/PID/schedstat`
    /// only the first thread.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let failed = |error| Failure::io(format!("{}: its CPU clock: {error}", self.name));
        let clock = ClockId::pid_cpu_clock_id(self.pid()).map_err(failed)?;
        clock.now().map(Duration::from).map_err(failed)
    }

    /// Waits until the process has rested for a moment: what it does after its last answer belongs to the lines too.
    pub(crate) fn cpu_at_rest(&self) -> Result<Duration, Failure> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut before = self.cpu()?;
        loop {
            std::thread::sleep(REST);
            let now = self.cpu()?;
            if now - before < REST_CPU || Instant::now() > deadline {
                return Ok(now);
            }
            before = now;
        }
    }

    /// Resident memory in bytes, 0 where it cannot be read.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status_kib("VmRSS:") * 1024
    }

    /// The most that was ever resident, in bytes; 0 where it cannot be read.
    pub(crate) fn resident_bytes_max(&self) -> u64 {
        self.status_kib("VmHWM:") * 1024
    }

    /// From now on [`Server::resident_bytes_max`] is of what comes; where that is not allowed, still of all.
    pub(crate) fn forget_resident_max(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    /// Resident memory that is no file's (heap and stacks), in bytes; 0 where it cannot be read.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        self.status_kib("RssAnon:") * 1024
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        status_kib(&status, key).unwrap_or(0)
    }

    /// From now on it has `quota` of its CPUs' time.
    pub(crate) fn throttle(&mut self, quota: f64) {
        self.throttle = Some(Throttle::start(self.pid(), quota));
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Tells it to end, as an operator would, and gives what it printed.
    pub(crate) fn end(mut self) -> Result<String, Failure> {
        self.throttle = None;
        let failed = |error: &dyn Display| Failure::io(format!("{}: {error}", self.name));
        kill(self.pid(), Signal::SIGTERM).map_err(|error| failed(&error))?;
        let printed = self.printed.recv_timeout(END_WAIT);
        let printed = printed.map_err(|_| failed(&format!("did not end within {END_WAIT:?} of SIGTERM")))?;
        let status = self.child.wait().map_err(|error| failed(&error))?;
        if status.success() { Ok(printed) } else { Err(self.explain(failed(&"ended badly"))) }
    }

    /// Whether it has died, and how.
    fn died(&mut self) -> Option<ExitStatus> {
        // A process that was just killed refuses connections a moment before it can be waited for.
        for _ in 0..10 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// `failure`, with what became of the server if it has died: a refused connection alone explains nothing.
    pub(crate) fn explain(&mut self, failure: Failure) -> Failure {
        let Some(status) = self.died() else { return failure };
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let last = if words.is_empty() { "it had said nothing".to_owned() } else { words.join("\n  ") };
        failure.because(format!("{} is dead ({status}); its last words:\n  {last}", self.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.throttle = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stops and continues a process in turn, as the kernel does with a container over its quota.
#[derive(Debug)]
struct Throttle {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// The kernel's own default (cpu.cfs_period_us).
    const PERIOD: Duration = Duration::from_millis(100);

    fn start(pid: Pid, quota: f64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Relaxed) {
                // If it has died, whoever uses it notices.
                let _ = kill(pid, Signal::SIGSTOP);
                std::thread::sleep(Self::PERIOD.mul_f64(1.0 - quota));
                let _ = kill(pid, Signal::SIGCONT);
                std::thread::sleep(Self::PERIOD.mul_f64(quota));
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Throttle {
    /// Ends with the process running. It must not have been waited for: its number could be another's by then.
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Resident memory of a process of ours in bytes, 0 where it cannot be read.
pub(crate) fn resident_bytes_of(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status_kib(&status, "VmRSS:").unwrap_or(0) * 1024
}

/// How long the threads of a process of ours, those that have ended apart, have run or waited for a CPU: unlike its CPU
/// time this says whether it had any to spare on a machine where others work too.
pub(crate) fn run_or_waited(pid: Pid) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let stats = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    stats.filter_map(|stat| schedstat(&stat)).sum()
}

/// Time run and time waited of a `schedstat`: the first two of its numbers, in nanoseconds.
fn schedstat(stat: &str) -> Option<Duration> {
    let mut numbers = stat.split_ascii_whitespace().map_while(|number| number.parse().ok());
    Some(Duration::from_nanos(numbers.next()?) + Duration::from_nanos(numbers.next()?))
}

/// A value of `/proc/PID/status` in KiB.
fn status_kib(status: &str, key: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// Reads the child's stderr to its end in a thread, or it would block once the pipe is full.
fn listen_to(stderr: impl Read + Send + 'static, words: Arc<Mutex<VecDeque<String>>>) -> Receiver<String> {
    let (lines, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        // Bytes, not text: one byte that is no UTF-8 must not end the listening, and with it the pipe.
        while let Ok(1..) = stderr.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
            if words.len() == WORDS_KEPT {
                words.pop_front();
            }
            words.push_back(text.clone());
            drop(words);
            // Nobody listens once the addresses are known.
            let _ = lines.send(text);
        }
    });
    heard
}

fn read_all(mut stdout: ChildStdout) -> Receiver<String> {
    let (printed, all) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        let _ = printed.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    all
}

fn url(heard: &Receiver<String>, before: &str) -> Option<String> {
    let deadline = Instant::now() + START_WAIT;
    while let Ok(line) = heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some((_, url)) = line.split_once(before) {
            return Some(url.trim().to_owned());
        }
    }
    None
}

/// Runs `action` with this thread on `cpus`, then lets it go back to where it was.
fn pinned<T>(cpus: &[usize], action: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).ok();
    if !cpus.is_empty() {
        pin(cpus);
    }
    let done = action();
    if let Some(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    done
}

/// Puts this thread, and those it starts, on `cpus`; false where that is not allowed.
pub(crate) fn pin(cpus: &[usize]) -> bool {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set).is_ok()
}

/// The CPUs this process may use.
pub(crate) fn cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// More than any of the measurements takes unless told to.
const OPEN_FILES: i32 = 32 << 10;

/// Lets this process have as many open files as the system allows: the usual 1,024 are fewer than the readers may be. And has room
/// made for them before there are threads, all of which wait where the kernel makes it later: that is not the server's delay.
pub(crate) fn prepare_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // If it is not allowed, opening too many says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let last = maximum.map_or(OPEN_FILES, |maximum| OPEN_FILES.min(i32::try_from(maximum).unwrap_or(i32::MAX) - 1));
    // Closed at once: the kernel's table stays as large.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), last);
}

/// Lets other threads go before this one, wherever one wants to: niceness alone lets it finish its turn first.
pub(crate) fn give_way() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{
            NormalThreadSchedulePolicy::Idle, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
            thread_native_id,
        };
        // Where it is not allowed, figures are worse than they need be.
        let policy = ThreadSchedulePolicy::Normal(Idle);
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_in_a_status() {
        let status = "Name:\ta b\nVmHWM:\t  2048 kB\nVmRSS:\t    17 kB\n";
        assert_eq!(status_kib(status, "VmRSS:"), Some(17));
        assert_eq!(status_kib(status, "VmHWM:"), Some(2048));
        assert_eq!(status_kib("", "VmRSS:"), None);
    }

    #[test]
    fn time_run_and_time_waited_are_added() {
        assert_eq!(schedstat("1000 500 3\n"), Some(Duration::from_nanos(1_500)));
        assert_eq!(schedstat("1000"), None);
    }

    #[test]
    fn the_addresses_are_found_among_other_lines() {
        let said: &[u8] = b"INFO starting\nno UTF-8: \xff\n2026 INFO ingest listening on http://127.0.0.1:4711\ncontrol listening on http://127.0.0.1:4712\n";
        let heard = listen_to(said, Arc::default());
        assert_eq!(url(&heard, "ingest listening on ").as_deref(), Some("http://127.0.0.1:4711"));
        assert_eq!(url(&heard, "control listening on ").as_deref(), Some("http://127.0.0.1:4712"));
    }

    #[test]
    fn a_server_that_dies_is_named_with_its_last_words() {
        let launch = Launch::new(Path::new("/bin/sh"), &["-c", "echo out of luck >&2; exit 7"]);
        let failure = Server::start("unlucky", &launch).unwrap_err().to_string();
        assert!(failure.contains("unlucky is dead (exit status: 7)") && failure.contains("out of luck"), "{failure}");
    }

    /// `/proc/PID/stat` to a clock tick.
    fn ticks(server: &Server) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
        let fields: Vec<&str> = stat.split(' ').collect();
        let ticks: u64 = fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
    }

    #[test]
    fn the_cpu_clock_of_a_child_is_that_of_proc_and_finer() {
        let script =
            "echo ingest listening on http://x >&2; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exec sleep 60";
        let server = Server::start("busy", &Launch::new(Path::new("/bin/sh"), &["-c", script])).unwrap();
        let cpu = server.cpu_at_rest().unwrap();
        let grain = Duration::from_millis(20);
        assert!(cpu.abs_diff(ticks(&server)) < grain && cpu > grain, "{cpu:?}, /proc says {:?}", ticks(&server));
    }
}
