//! `fleetdrain tail`: look at the logs of many machines or of one, without disturbing other readers.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use hyper::StatusCode;
use tokio::time::{sleep, timeout};

use self::line::{Event, Look, Printer};
use super::{
    Exit, Failure,
    client::{Client, ClientArgs, Query, encode},
    complain,
    text::Colour,
};
use crate::config::value::{duration, format_duration};

mod line;

pub(super) const EXAMPLES: &str = "\
Examples:
  fleetdrain tail -a my-app -e 'GET /health'
  fleetdrain tail -m 4d891d77b05118 --last 100
  fleetdrain tail -i panic --since 1h -n -j | jq .machine_id
  fleetdrain tail -m 4d891d77b05118 --until exit";

/// The drain sends something at least every 15 s; after three times nothing the connection is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// The wait before a resume doubles from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// What `--no-tail` shows where neither `--since` nor `--last` says how much.
const NO_TAIL_LAST: u64 = 100;

/// What `--until` has no use for: filters that only `/api/v1/tail` knows, and another end.
const NOT_UNTIL: [&str; 7] = ["app", "region", "include", "exclude", "stream", "level", "no_tail"];

/// What ends a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// The machine's exit
    Exit,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Only this machine, and what the drain still holds of it; may be repeated
    #[arg(short, long, value_name = "ID")]
    machine: Vec<String>,
    /// Only this app; may be repeated
    #[arg(short, long, value_name = "NAME")]
    app: Vec<String>,
    /// Only this region; may be repeated
    #[arg(short, long, value_name = "CODE")]
    region: Vec<String>,
    /// Only messages that match this regular expression; if repeated, any of them
    #[arg(short, long, value_name = "REGEX")]
    include: Vec<String>,
    /// No messages that match this regular expression; if repeated, any of them
    #[arg(short, long, value_name = "REGEX")]
    exclude: Vec<String>,
    /// Only this stream: stdout, stderr, system
    #[arg(long, value_name = "STREAM")]
    stream: Vec<String>,
    /// Only this level
    #[arg(long, value_name = "LEVEL")]
    level: Vec<String>,
    /// Begin with what was received since then, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = read_duration)]
    since: Option<Duration>,
    /// Begin with the newest N that match
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// End when caught up [without --since or --last: the last 100]
    #[arg(short, long)]
    no_tail: bool,
    /// End with the exit of the one --machine, and with its code
    #[arg(long, value_enum, value_name = "EVENT", requires = "machine", conflicts_with_all = NOT_UNTIL)]
    until: Option<Until>,
    /// How long lines may come behind the exit [default: 5s, at most 30s]
    #[arg(long, value_name = "DURATION", value_parser = read_duration, requires = "until")]
    linger: Option<Duration>,
    /// How a line looks
    #[arg(short, long, value_enum, default_value = "default")]
    output: Look,
    /// Same as --output json
    #[arg(short, long, conflicts_with = "output")]
    json: bool,
    /// When to colour
    #[arg(long, value_enum, default_value = "auto")]
    color: Colour,
}

fn read_duration(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "not a duration such as 500ms, 30s or 1h30m".to_owned())
}

impl Args {
    /// The question, from the beginning or from where it broke off.
    fn path(&self, resume: Option<&Resume>) -> String {
        let mut query = match self.machine.as_slice() {
            [machine] if !self.filters() => Query::new(format!("/api/v1/machines/{}/logs", encode(machine))),
            machines => {
                let mut query = Query::new("/api/v1/tail");
                let lists = [
                    ("machine", machines),
                    ("app", &self.app),
                    ("region", &self.region),
                    ("stream", &self.stream),
                    ("level", &self.level),
                ];
                for (name, values) in lists {
                    values.iter().for_each(|value| query.push(name, value));
                }
                any_of(&self.include).inspect(|regex| query.push("include", regex));
                any_of(&self.exclude).inspect(|regex| query.push("exclude", regex));
                query
            }
        };
        match resume {
            Some(Resume::After(id)) => query.push("after", id),
            Some(Resume::Since(then)) => {
                // One second more, for the way there: at the worst a line is seen twice, not missed.
                query.push("since", &format_duration(then.elapsed() + Duration::from_secs(1)));
            }
            None => {
                self.since.inspect(|&since| query.push("since", &format_duration(since)));
                let last = self.last.or_else(|| (self.no_tail && self.since.is_none()).then_some(NO_TAIL_LAST));
                last.inspect(|last| query.push("last", &last.to_string()));
            }
        }
        if self.no_tail {
            query.push("follow", "false");
        }
        if self.until.is_some() {
            query.push("until", "exit");
            self.linger.inspect(|&linger| query.push("linger", &format_duration(linger)));
        }
        query.into_path()
    }

    /// Whether anything is asked that only `/api/v1/tail` answers.
    fn filters(&self) -> bool {
        let lists = [&self.app, &self.region, &self.include, &self.exclude, &self.stream, &self.level];
        lists.iter().any(|list| !list.is_empty())
    }

    /// How the process ends where the drain ended the stream for another reason than an exit.
    fn ended(&self, reason: &str) -> Exit {
        if self.until.is_none() {
            // Whoever follows waits for more.
            if reason == "finished" && !self.no_tail {
                complain("the machine is finished: nothing more comes until it is subscribed again");
            }
            return Exit::Success;
        }
        complain(&format!("the log ended ({reason}) and told of no exit"));
        Exit::Unavailable
    }

    fn printer(&self) -> Printer {
        let look = if self.json { Look::Json } else { self.output };
        Printer { look, colour: self.color.is_on(), terminal: io::stdout().is_terminal() }
    }
}

/// The machine's own code; what no process of ours can exit with is 255.
fn exit_of(code: Option<i64>) -> Exit {
    let Some(code) = code else {
        complain("the machine has exited, and Fly does not say with which code");
        return Exit::Unavailable;
    };
    Exit::As(u8::try_from(code).unwrap_or(u8::MAX))
}

/// One regular expression that matches where any of `list` does.
fn any_of(list: &[String]) -> Option<String> {
    match list {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(many.iter().map(|regex| format!("(?:{regex})")).collect::<Vec<_>>().join("|")),
    }
}

/// Where to go on after a break.
enum Resume {
    After(String),
    /// No id was seen yet; what was asked for began then.
    Since(Instant),
}

/// How a stream ended.
enum Ending {
    /// As it should: the drain said so, and why.
    Told(String),
    /// With the machine's exit, and its code if that is known.
    Exited(Option<i64>),
    /// It broke; there is more.
    Broke(String),
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    if args.until.is_some() && args.machine.len() > 1 {
        return Err(Failure::Usage(format!("--until exit waits for one --machine, not for {}", args.machine.len())));
    }
    let client = Client::new(&args.client)?;
    let printer = args.printer();
    let mut last_id = None;
    // What was asked for from the beginning (`--since`, `--last`) is asked again if nothing of it came.
    let asks_for_past = args.since.is_some() || args.last.is_some() || args.no_tail || args.machine.len() == 1;
    let begun = Instant::now();
    let mut connected = false;
    let mut attempt = 0;
    loop {
        let resume = match &last_id {
            Some(id) => Some(Resume::After(String::clone(id))),
            None => (connected && !asks_for_past).then_some(Resume::Since(begun)),
        };
        let reason = match client.ask_lines(&args.path(resume.as_ref())).await {
            // Nothing is left of a finished machine behind the id.
            Ok((StatusCode::NO_CONTENT, _)) => return Ok(args.ended("finished")),
            Ok((_, mut lines)) => {
                connected = true;
                let (before, since) = (last_id.clone(), Instant::now());
                match follow(&mut lines, &printer, &mut last_id, !args.no_tail).await? {
                    Ending::Told(reason) => return Ok(args.ended(&reason)),
                    Ending::Exited(code) => return Ok(exit_of(code)),
                    Ending::Broke(reason) => {
                        // One that breaks at once each time must not be asked ever faster.
                        if before != last_id || since.elapsed() > SILENCE_MAX {
                            attempt = 0;
                        }
                        reason
                    }
                }
            }
            Err(error) if connected && error.is_passing() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        let wait = backoff(attempt);
        attempt += 1;
        complain(&format!("{reason}; resuming in {}", format_duration(wait)));
        sleep(wait).await;
    }
}

/// Prints what comes until it ends.
async fn follow<B>(
    lines: &mut super::client::Lines<B>,
    printer: &Printer,
    last_id: &mut Option<String>,
    follows: bool,
) -> Result<Ending, Failure>
where
    B: hyper::body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut out = Vec::new();
    let mut waits = false;
    loop {
        let piece = match timeout(SILENCE_MAX, lines.next()).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => return Ok(Ending::Broke("the connection ended".to_owned())),
            Ok(Err(error)) => return Ok(Ending::Broke(format!("the connection broke: {error}"))),
            Err(_) => return Ok(Ending::Broke(format!("silence for {}", format_duration(SILENCE_MAX)))),
        };
        // A heartbeat and nothing before: perhaps the machine's name is misspelt.
        if last_id.is_none() && !waits && piece.trim_ascii().is_empty() {
            complain("nothing yet that matches; waiting");
            waits = true;
        }
        for line in piece.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            match printer.print(line, &mut out) {
                Event::Entry(Some(id)) => *last_id = Some(id),
                Event::Entry(None) => {}
                Event::Skipped(lines) => {
                    write(&mut out)?;
                    complain(&skipped(lines));
                }
                // The drain is restarted, as at every deployment: whoever follows goes on with its successor.
                Event::End(reason, _) if reason == "shutdown" && follows => {
                    write(&mut out)?;
                    return Ok(Ending::Broke("the drain has shut down".to_owned()));
                }
                Event::End(reason, code) if reason == "exited" => {
                    write(&mut out)?;
                    return Ok(Ending::Exited(code));
                }
                Event::End(reason, _) => {
                    write(&mut out)?;
                    if last_id.is_none() && reason == "caught_up" {
                        complain("nothing is kept that matches");
                    }
                    if !matches!(reason.as_str(), "caught_up" | "finished" | "") {
                        complain(&format!("ended: {reason}"));
                    }
                    return Ok(Ending::Told(reason));
                }
            }
        }
        write(&mut out)?;
    }
}

fn skipped(lines: Option<u64>) -> String {
    match lines {
        Some(1) => "skipped 1 line: it was gone before it could be read".to_owned(),
        Some(lines) => format!("skipped {lines} lines: they were gone before they could be read"),
        None => "skipped lines, nobody knows how many: they were gone before they could be read".to_owned(),
    }
}

/// Writes and clears `out`.
fn write(out: &mut Vec<u8>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(out).and_then(|()| stdout.flush());
    out.clear();
    written.map_err(Failure::stdout)
}

/// Doubles with each attempt, and is spread over its upper half, so that a thousand viewers do not come back together.
fn backoff(attempt: u32) -> Duration {
    let full = BACKOFF.0.saturating_mul(1 << attempt.min(10)).min(BACKOFF.1);
    let random = std::hash::BuildHasher::hash_one(&foldhash::fast::RandomState::default(), attempt);
    let half_millis = full.as_millis() as u64 / 2;
    Duration::from_millis(half_millis + random % (half_millis + 1))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn path(args: &[&str]) -> String {
        let line = Line::try_parse_from(std::iter::once("tail").chain(args.iter().copied())).unwrap();
        line.args.path(None)
    }

    #[test]
    fn one_machine_is_asked_for_its_own_log() {
        assert_eq!(path(&["-m", "a b", "--last", "7"]), "/api/v1/machines/a%20b/logs?last=7");
        assert_eq!(path(&["-m", "a", "-i", "x"]), "/api/v1/tail?machine=a&include=x");
        assert_eq!(path(&["-m", "a", "-m", "b"]), "/api/v1/tail?machine=a&machine=b");
    }

    #[test]
    fn filters_are_passed_on() {
        let asked = path(&[
            "-a", "web", "-r", "lax", "--stream", "stderr", "-i", "a", "-i", "b", "-e", "c", "--since", "1h30m",
        ]);
        assert_eq!(
            asked,
            "/api/v1/tail?app=web&region=lax&stream=stderr&include=%28%3F%3Aa%29%7C%28%3F%3Ab%29&exclude=c&since=1h30m"
        );
        assert_eq!(path(&[]), "/api/v1/tail");
        assert_eq!(path(&["-n"]), "/api/v1/tail?last=100&follow=false");
        assert_eq!(path(&["-n", "--since", "5m"]), "/api/v1/tail?since=5m&follow=false");
    }

    #[test]
    fn a_resume_asks_after_the_last_id_only() {
        let line = Line::try_parse_from(["tail", "-a", "web", "--last", "5", "-n"]).unwrap();
        let resume = Resume::After("1-2-3".to_owned());
        assert_eq!(line.args.path(Some(&resume)), "/api/v1/tail?app=web&after=1-2-3&follow=false");
    }

    #[test]
    fn backoff_grows_to_its_bound() {
        for attempt in 0..40 {
            let wait = backoff(attempt);
            assert!(wait >= BACKOFF.0 / 2 && wait <= BACKOFF.1, "{attempt}: {wait:?}");
        }
        assert!(backoff(20) >= BACKOFF.1 / 2);
    }
}
