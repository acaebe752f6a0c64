//! The bodies of a comparison, and how they are sent.

use crate::client::{Connection, Target};
use crate::encode::Encoding;
use crate::failure::Failure;
use crate::generate::{Form, Generator, RecordSpec, Shapes, machine_id, rfc3339};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, StatusCode, header};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The run id of all bodies of a comparison: they are the same on every machine and day.
pub(crate) const RUN: u32 = 0x00c0_ffee;

/// A file of machine ids, one a line, removed when dropped.
pub(crate) struct MachineList {
    pub(crate) machines: u32,
    pub(crate) path: PathBuf,
}

impl MachineList {
    pub(crate) fn write(machines: u32) -> Result<Self, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("loadtest-machines-{}-{}.txt", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let mut text = Vec::with_capacity(machines as usize * 15);
        for number in 0..machines {
            text.extend_from_slice(&machine_id(RUN, number));
            text.push(b'\n');
        }
        std::fs::write(&path, text).map_err(|error| Failure::io(format!("{}: {error}", path.display())))?;
        Ok(Self { machines, path })
    }
}

impl Drop for MachineList {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the bodies are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyArgs {
    pub(crate) lines_per_body: usize,
    pub(crate) machines: u32,
    pub(crate) zipf: f64,
    pub(crate) distinct_lines: usize,
    pub(crate) line_bytes: usize,
    pub(crate) shapes: Shapes,
    pub(crate) form: Form,
    pub(crate) encoding: Encoding,
}

impl Default for BodyArgs {
    fn default() -> Self {
        Self {
            lines_per_body: 1_000,
            machines: 1_000,
            zipf: 1.0,
            distinct_lines: 200_000,
            line_bytes: RecordSpec::default().line_bytes,
            shapes: Shapes::Fly,
            form: Form::Lines,
            encoding: Encoding::Identity,
        }
    }
}

/// Bodies and what they cost nobody to make again.
#[derive(Debug)]
pub(crate) struct Bodies {
    bodies: Vec<Bytes>,
    /// The machine of each line, body by body.
    machines: Vec<u32>,
    pub(crate) lines_per_body: usize,
    encoding: Encoding,
}

impl Bodies {
    pub(crate) fn of(args: &BodyArgs) -> Result<Self, Failure> {
        let &BodyArgs { lines_per_body, machines, zipf, distinct_lines, line_bytes, shapes, form, encoding } = args;
        let spec = RecordSpec { line_bytes, form, shapes, ..RecordSpec::default() };
        let mut generator = Generator::whole_fleet(&spec, RUN, machines as usize, zipf, 1);
        let mut buffer = Vec::new();
        let mut made = Self { bodies: Vec::new(), machines: Vec::new(), lines_per_body, encoding };
        for number in 0..distinct_lines.div_ceil(lines_per_body) {
            // A body each millisecond from a fixed day on: the bodies do not depend on when they are made.
            let timestamp = rfc3339(1_782_523_151_000_000_000 + number as u128 * 1_000_000);
            let contents = generator.body(lines_per_body, 0, &timestamp, &mut buffer);
            made.machines.extend(contents.good.iter().map(|&(machine, _)| machine));
            made.bodies.push(Bytes::from(encoding.encode(&buffer).map_err(Failure::io)?));
        }
        Ok(made)
    }

    /// Sends body `number`, and sees to it that all of it was taken.
    pub(crate) async fn send(
        &self,
        connection: &mut Connection,
        target: &Target,
        number: usize,
    ) -> Result<(), Failure> {
        let mut request = target.request(Method::POST, "/").header(header::CONTENT_TYPE, "application/json");
        if let Some(encoding) = self.encoding.header() {
            request = request.header(header::CONTENT_ENCODING, encoding);
        }
        let body = Full::new(self.bodies[number % self.bodies.len()].clone());
        let request = request.body(body).map_err(Failure::io)?;
        let answer = connection.exchange(request).await?;
        if answer.status != StatusCode::OK {
            return Err(Failure::data(format!("answered {}: {}", answer.status, answer.body.escape_ascii())));
        }
        // A server that throws lines away would look quick. The ceiling does, and has no account.
        if let Some(account) = answer.account()
            && (account.received != self.lines_per_body as u64 || account.rejected > 0)
        {
            return Err(Failure::data(format!("{} lines sent, answer {account:?}", self.lines_per_body)));
        }
        Ok(())
    }

    /// The lines of body `number` as Fly's messages: subject and record.
    pub(super) fn messages(&self, number: usize) -> impl Iterator<Item = (String, Bytes)> {
        let number = number % self.bodies.len();
        let (body, per_body) = (&self.bodies[number], self.lines_per_body);
        let machines = self.machines[number * per_body..][..per_body].iter().map(|&machine| machine_id(RUN, machine));
        let lines = body.split(|&byte| byte == b'\n').map(|line| body.slice_ref(line));
        machines.zip(lines).map(|(id, line)| (format!("logs.load.lax.{}", String::from_utf8_lossy(&id)), line))
    }

    /// Adds the lines that each machine has in the first `count` bodies sent.
    pub(super) fn add_lines(&self, count: usize, lines: &mut [u64]) {
        let (times, rest) = (count / self.bodies.len(), count % self.bodies.len());
        for (number, machines) in self.machines.chunks(self.lines_per_body).enumerate() {
            let times = (times + usize::from(number < rest)) as u64;
            machines.iter().for_each(|&machine| lines[machine as usize] += times);
        }
    }
}

/// Sends `count` bodies over `connections` connections as fast as they are taken.
pub(crate) async fn send(
    target: &Target,
    bodies: &Arc<Bodies>,
    count: usize,
    connections: u16,
) -> Result<Duration, Failure> {
    let started = Instant::now();
    let awake = tokio::spawn(stay_awake());
    let next = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..connections)
        .map(|_| {
            let (target, bodies, next) = (target.clone(), Arc::clone(bodies), Arc::clone(&next));
            tokio::spawn(async move { send_some(&target, &bodies, &next, count).await })
        })
        .collect();
    for sender in senders {
        sender.await.map_err(Failure::io)??;
    }
    awake.abort();
    Ok(started.elapsed())
}

/// Keeps this process from sleeping: each answer would have to wake it, which costs the server as much as ten lines, and which a
/// sender on another machine would not cost it.
async fn stay_awake() {
    loop {
        tokio::task::yield_now().await;
    }
}

async fn send_some(target: &Target, bodies: &Bodies, next: &AtomicUsize, count: usize) -> Result<(), Failure> {
    let mut connection = Connection::open(target, None).await?;
    loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= count {
            return Ok(());
        }
        bodies.send(&mut connection, target, number).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_by_machine_over_repeated_bodies() {
        let bodies = Bodies {
            bodies: vec![Bytes::new(); 3],
            machines: vec![0, 0, 1, 2, 2, 2],
            lines_per_body: 2,
            encoding: Encoding::Identity,
        };
        let mut lines = [0; 3];
        bodies.add_lines(7, &mut lines);
        // Bodies 0, 1, 2 twice, then 0 again.
        assert_eq!(lines, [6, 2, 6]);
    }
}
