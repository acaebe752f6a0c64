//! `fleetdrain serve` as a process of its own, and the client commands.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a panic here is a test's failure report")]

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

/// The binary, with nothing of this process's environment that it reads.
pub(crate) fn fleetdrain(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetdrain"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLEETDRAIN_") || name == "FLY_APP_NAME" {
            command.env_remove(name);
        }
    }
    command.args(args).envs(env.iter().copied());
    command
}

/// Exit code, standard output and standard error of a command that ends by itself.
pub(crate) fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let output = fleetdrain(args, env).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub(crate) struct Drain {
    child: Child,
    stderr: BufReader<ChildStderr>,
    pub(crate) ingest: SocketAddr,
    pub(crate) control: SocketAddr,
    /// How the two listening lines begin.
    pub(crate) schemes: [String; 2],
}

impl Drain {
    pub(crate) fn start(env: &[(&str, &str)]) -> Self {
        Self::start_with(&[], env, Stdio::inherit())
    }

    /// Starts one whose readers ask at `control`, as those of one before it did.
    pub(crate) fn start_at(control: &str, env: &[(&str, &str)]) -> Self {
        Self::launch(control, &[], env, Stdio::inherit())
    }

    /// With more flags, and its standard output there.
    pub(crate) fn start_with(flags: &[&str], env: &[(&str, &str)], stdout: Stdio) -> Self {
        Self::launch("127.0.0.1:0", flags, env, stdout)
    }

    fn launch(control: &str, flags: &[&str], env: &[(&str, &str)], stdout: Stdio) -> Self {
        let args = [&["serve", "--listen", "127.0.0.1:0", "--control", control], flags].concat();
        let mut command = fleetdrain(&args, env);
        command.stdout(stdout);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        // What it found left by an earlier run may be told before.
        let mut listening = |what: &str| loop {
            let start = said.len();
            assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "it does not listen: {said}");
            if let Some(url) = said[start..].trim_end().strip_prefix(&format!("{what} listening on ")) {
                let (scheme, addr) = url.split_once("://").unwrap();
                break (scheme.to_owned(), addr.parse().unwrap());
            }
        };
        let ((ingest_scheme, ingest), (control_scheme, control)) = (listening("ingest"), listening("control"));
        Self { child, stderr, ingest, control, schemes: [ingest_scheme, control_scheme] }
    }

    /// A number that the kernel knows of the process; see proc_pid_status(5).
    #[cfg(target_os = "linux")]
    pub(crate) fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let is_it = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok();
        status.lines().find_map(is_it).unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// What it writes to standard output, if it was started with a pipe there.
    pub(crate) fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().unwrap())
    }

    /// Reads what it says up to a line with `text` in it.
    pub(crate) fn says(&mut self, text: &str) -> String {
        let mut said = String::new();
        while !said.contains(text) {
            assert_ne!(self.stderr.read_line(&mut said).unwrap(), 0, "{text} is not said: {said}");
        }
        said
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its exit code and the rest of what it said.
    pub(crate) fn wait(mut self) -> (i32, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code().expect("it ended by itself"), said)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
