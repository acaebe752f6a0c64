//! The command line as a user or a script meets it: what is printed where, and the exit code.

// clippy.toml lets tests unwrap, but sees only functions marked as tests, not their helpers.
#![allow(clippy::unwrap_used)]

#[cfg(all(feature = "sinks", feature = "spool"))]
#[path = "cli/reports.rs"]
mod against_a_drain;
#[cfg(all(feature = "sinks", feature = "spool"))]
mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command as Process, Stdio},
    thread::JoinHandle,
};

use assert_cmd::Command;

/// The binary, with nothing of this process's environment that it reads.
fn fleetdrain(args: &[&str]) -> Command {
    let mut command = assert_cmd::cargo_bin_cmd!("fleetdrain");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLEETDRAIN_") || name == "FLY_APP_NAME" {
            command.env_remove(name);
        }
    }
    command.args(args).timeout(std::time::Duration::from_secs(60));
    command
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn scratch(name: &str, text: impl AsRef<[u8]>) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

mod usage {
    use super::*;

    #[test]
    fn a_port_that_is_taken_exits_74_and_says_why() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let mut serve = fleetdrain(&["serve", "--listen", &addr, "--control", "127.0.0.1:0"]);
        // Without `__` it is no variable of the server's, and nothing that it could stumble over.
        let ran = run(serve.env("FLEETDRAIN_LOG", "=nonsense="));
        assert_eq!(ran.code, 74, "{ran:?}");
        assert!(ran.err.contains(&addr) && ran.err.contains("in use"), "{ran:?}");
    }

    #[test]
    fn mistakes_of_usage_exit_64() {
        for args in
            [&[][..], &["frobnicate"], &["tail", "--since", "5"], &["serve", "--nope"], &["machines", "--limit", "0"]]
        {
            let ran = run(&mut fleetdrain(args));
            assert_eq!(ran.code, 64, "{args:?}: {ran:?}");
            assert!(!ran.err.is_empty() && ran.out.is_empty(), "{args:?}: {ran:?}");
        }
    }

    #[test]
    fn help_and_version_exit_0() {
        for args in [&["--help"][..], &["-h"], &["--version"], &["help", "tail"], &["tail", "-h"]] {
            let ran = run(&mut fleetdrain(args));
            assert_eq!(ran.code, 0, "{args:?}");
            assert!(!ran.out.is_empty(), "{args:?}");
        }
        assert!(run(&mut fleetdrain(&["--version"])).out.starts_with("fleetdrain "));
    }

    /// The commands that a help lists.
    fn below(help: &str) -> Vec<String> {
        let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        // An indented line goes on with the one before it.
        let named = list.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
        named.filter(|name| *name != "help").map(str::to_owned).collect()
    }

    #[test]
    fn every_commands_help_fits_a_screen_and_has_examples() {
        let (mut unseen, mut seen) = (vec![Vec::<String>::new()], 0);
        while let Some(command) = unseen.pop() {
            let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
            args.push("-h");
            let ran = run(fleetdrain(&args).env("COLUMNS", "80"));
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
            assert!(ran.out.contains("\nExamples:\n  "), "{args:?}: {}", ran.out);
            assert!(ran.out.lines().count() <= 50, "{args:?}: {}", ran.out);
            assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{args:?}: {}", ran.out);
            unseen.extend(below(&ran.out).into_iter().map(|name| [&command[..], &[name]].concat()));
            seen += 1;
        }
        assert!(seen > 20, "only {seen} commands: the list of commands is not understood");
    }

    #[test]
    fn completions_and_manual_name_every_command() {
        for args in [&["completions", "bash"][..], &["completions", "fish"], &["completions", "zsh"], &["man"]] {
            let ran = run(&mut fleetdrain(args));
            assert_eq!(ran.code, 0);
            for command in ["serve", "parse", "tail", "machines", "stats", "validate", "config", "health"] {
                assert!(ran.out.contains(command), "{args:?} lacks {command}");
            }
        }
    }

    /// What another program says of a file, and whether it is content.
    fn judge(program: &str, args: &[&str], file: &str) -> (bool, String) {
        let output = Process::new(program).args(args).arg(file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn completions(shell: &str) -> String {
        scratch(&format!("completions.{shell}"), run(&mut fleetdrain(&["completions", shell])).out)
    }

    #[test]
    fn bash_completes_commands_and_flags() {
        let file = completions("bash");
        assert_eq!(judge("bash", &["-n"], &file), (true, String::new()));
        let complete = |line: &str| {
            let script = format!(
                "source {file}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _fleetdrain fleetdrain \
                 \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\""
            );
            judge("bash", &["-c"], &script)
        };
        assert_eq!(complete("fleetdrain tai"), (true, "tail\n".to_owned()));
        assert_eq!(complete("fleetdrain tail --inc"), (true, "--include\n".to_owned()));
        assert_eq!(complete("fleetdrain tail --color a"), (true, "auto always\n".to_owned()));
    }

    #[test]
    #[ignore = "needs zsh and fish (Debian packages of these names)"]
    fn zsh_and_fish_take_their_completions() {
        assert_eq!(judge("zsh", &["-n"], &completions("zsh")), (true, String::new()));
        assert_eq!(judge("fish", &["--no-execute"], &completions("fish")), (true, String::new()));
        let file = completions("fish");
        let asked = format!("source {file}; complete --do-complete 'fleetdrain tai'");
        let (is_taken, said) = judge("fish", &["-c"], &asked);
        assert!(is_taken && said.starts_with("tail\t"), "{said}");
    }

    /// The directory of pages, and their paths.
    fn manual(name: &str) -> Vec<PathBuf> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        assert_eq!(run(&mut fleetdrain(&["man", "--dir", dir.to_str().unwrap()])).code, 0);
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn manual_pages_are_written_to_a_directory() {
        let pages = manual("man");
        let page = |name: &str| pages.iter().find(|page| page.ends_with(name)).unwrap_or_else(|| panic!("{name}"));
        assert!(fs::read_to_string(page("fleetdrain-tail.1")).unwrap().contains("tail"));
        for command in ["serve", "parse", "machines", "stats", "losses", "validate", "config", "health", "link", "man"]
        {
            page(&format!("fleetdrain-{command}.1"));
        }
    }

    #[test]
    #[ignore = "needs mandoc (Debian package mandoc)"]
    fn manual_pages_are_well_formed() {
        // That a page has no date, and blank lines that clap_mangen has too many.
        let known = ["missing date", "skipping paragraph macro: br"];
        for page in manual("man-lint") {
            let (_, said) = judge("mandoc", &["-T", "lint", "-W", "warning"], page.to_str().unwrap());
            let wrong: Vec<_> = said.lines().filter(|line| !known.iter().any(|known| line.contains(known))).collect();
            assert_eq!(wrong, Vec::<&str>::new());
            let title = fs::read_to_string(&page).unwrap();
            assert!(title.contains(concat!(" 1 \"\" \"fleetdrain ", env!("CARGO_PKG_VERSION"), "\"")), "{title}");
        }
    }
}

mod configuration {
    use super::*;

    #[test]
    fn validate_prints_settings_sources_and_what_was_derived() {
        let file = scratch("good.toml", "[memory]\nbudget = \"64MiB\"\n[queue]\nlines = 7\n");
        let mut command = fleetdrain(&["validate", "--config", &file, "--listen", "127.0.0.1:0", "--include-stderr"]);
        let ran = run(command.env("FLEETDRAIN_QUEUE__BYTES", "1MiB"));
        assert_eq!(ran.code, 0, "{ran:?}");
        let line = |key: &str| {
            let line = ran.out.lines().find(|line| line.split_whitespace().next() == Some(key));
            line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("memory.budget"), "memory.budget 64MiB file");
        assert_eq!(line("queue.lines"), "queue.lines 7 file");
        assert_eq!(line("queue.bytes"), "queue.bytes 1MiB env");
        assert_eq!(line("ingest.listen"), "ingest.listen 127.0.0.1:0 flag");
        assert_eq!(line("queue.streams"), "queue.streams stdout,stderr flag");
        assert_eq!(line("history.bytes"), "history.bytes 16MiB default a quarter of memory.budget");
        assert!(line("ingest.decoded_bytes_max").contains("16MiB default a quarter of memory.budget"));
    }

    #[test]
    fn mistakes_exit_78_and_are_all_told() {
        let file = scratch("bad.toml", "[queue]\nline = 7\nfull = 5\n[control]\ntoken = \"hunter2\"\n");
        for command in ["validate", "serve"] {
            let ran = run(fleetdrain(&[command, "--config", &file]).env("FLEETDRAIN_LOG__FORMAT", "xml"));
            assert_eq!(ran.code, 78, "{ran:?}");
            assert!(
                ran.err.contains("bad.toml:2:1: queue.line: unknown key, the nearest is queue.lines"),
                "{}",
                ran.err
            );
            assert!(ran.err.contains("queue.full: 5 is not catch_up"), "{}", ran.err);
            assert!(ran.err.contains("control.token_file") && !ran.err.contains("hunter2"), "{}", ran.err);
            assert!(ran.err.contains("FLEETDRAIN_LOG__FORMAT"), "{}", ran.err);
            assert_eq!(ran.err.lines().count(), 4, "{}", ran.err);
        }
    }

    #[test]
    fn control_off_loopback_without_a_token_exits_78() {
        let open = ["--control", "0.0.0.0:0"];
        let ran = run(&mut fleetdrain(&["validate", open[0], open[1]]));
        assert_eq!(ran.code, 78);
        assert!(ran.err.contains("0.0.0.0:0 is not loopback"), "{}", ran.err);
        assert_eq!(run(&mut fleetdrain(&["validate", open[0], open[1], "--insecure-control"])).code, 0);
        let mut with_token = fleetdrain(&["validate", open[0], open[1]]);
        let ran = run(with_token.env("FLEETDRAIN_CONTROL__TOKEN", "hunter2"));
        assert_eq!(ran.code, 0);
        assert!(!ran.out.contains("hunter2") && !ran.err.contains("hunter2"));
    }

    #[test]
    fn a_missing_file_exits_78() {
        let ran = run(&mut fleetdrain(&["serve", "--config", "/nowhere.toml"]));
        assert_eq!(ran.code, 78);
        assert!(ran.err.contains("cannot read /nowhere.toml"), "{}", ran.err);
    }

    #[test]
    fn the_shippers_environment_becomes_a_configuration_without_its_secrets() {
        let shipper = [
            ("ORG", "my-org"),
            ("ACCESS_TOKEN", "hunter1"),
            ("LOKI_URL", "https://loki.example"),
            ("LOKI_USERNAME", "me"),
            ("LOKI_PASSWORD", "hunter2"),
            ("PAPERTRAIL_ENDPOINT", "logs.example:1234"),
        ];
        let ran = run(fleetdrain(&["config", "from-shipper"]).env_clear().envs(shipper));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("org = \"my-org\"") && ran.out.contains("[sinks.loki]"), "{}", ran.out);
        assert!(ran.out.contains("FLEETDRAIN_SINKS__LOKI__PASSWORD=\"$LOKI_PASSWORD\""), "{}", ran.out);
        assert!(!ran.out.contains("hunter") && !ran.err.contains("hunter"), "{ran:?}");
        assert!(ran.err.contains("no counterpart: PAPERTRAIL_ENDPOINT: there is no sink for syslog"), "{}", ran.err);
        let file = scratch("shipper.toml", &ran.out);
        let validated = run(&mut fleetdrain(&["validate", "--config", &file]));
        assert!(validated.code == 0 && validated.out.contains("sinks.loki"), "{validated:?}");
        let env: String = shipper.iter().map(|(name, value)| format!("{name}={value}\r\n")).collect();
        let piped = run(fleetdrain(&["config", "from-shipper", "--env", "-"]).write_stdin(env));
        assert_eq!((piped.code, piped.out), (0, ran.out));
        let nothing = run(fleetdrain(&["config", "from-shipper", "--env", "-"]).write_stdin("PATH=/bin\n"));
        assert_eq!((nothing.code, nothing.out.as_str()), (65, ""), "{nothing:?}");
    }

    #[test]
    fn the_printed_configuration_validates() {
        let ran = run(&mut fleetdrain(&["config"]));
        let file = scratch("printed.toml", ran.out);
        assert_eq!(run(&mut fleetdrain(&["validate", "-c", &file])).code, 0);
    }
}

mod parse {
    use super::*;

    const A: &str =
        r#"{"fly":{"app":{"instance":"m1","name":"web"},"region":"lax"},"message":"a","log":{"level":"info"}}"#;
    const B: &str = r#"{"machine_id":"m2","msg":"b"}"#;
    const ENTRY_A: &str = r#"{"machine_id":"m1","message":"a","stream":"stdout","timestamp":"","app_name":"web","region":"lax","host":"","level":"info","raw":"#;

    fn parse(args: &[&str], body: impl Into<Vec<u8>>) -> Ran {
        run(fleetdrain(&[&["parse"], args].concat()).write_stdin(body))
    }

    #[test]
    fn every_form_gives_the_same_entries() {
        let expected = parse(&[], format!("{A}\n{B}\n"));
        assert_eq!(expected.code, 0, "{expected:?}");
        assert_eq!(expected.out.lines().next().unwrap(), format!("{ENTRY_A}{A}}}"));
        assert_eq!(expected.out.lines().count(), 2);
        for body in [format!("\u{feff}{A}\r\n\r\n{B}"), format!("[{A},{B}]"), format!("{A}{B}"), format!("{A} {B}\n")] {
            assert_eq!(parse(&[], body.clone()).out, expected.out, "{body}");
        }
    }

    #[test]
    fn rejected_records_are_named_by_line() {
        let body = format!("{A}\n\nnope\n7\n{{\"message\":1}}\n{B}\n");
        let ran = parse(&[], body.clone());
        assert_eq!((ran.code, ran.out.lines().count()), (0, 2), "{ran:?}");
        assert_eq!(ran.err, "line 3: malformed_json\nline 4: not_an_object\nline 5: no_machine_id\n");
        assert_eq!(parse(&["--strict"], body).code, 65);
        assert_eq!(parse(&["--strict"], A).code, 0);
    }

    #[test]
    fn several_files_are_told_apart() {
        let (good, bad) = (scratch("good.ndjson", format!("{A}\n")), scratch("bad.ndjson", "nope\n"));
        let ran = parse(&[&good, &bad, "-"], B);
        assert_eq!(ran.code, 0);
        assert_eq!(ran.out.lines().count(), 2);
        assert_eq!(ran.err, format!("{bad}: line 1: malformed_json\n"));
    }

    #[test]
    fn a_file_that_cannot_be_read_exits_74_and_spares_the_others() {
        let good = scratch("good2.ndjson", A);
        let ran = parse(&["/nowhere.ndjson", &good], "");
        assert_eq!((ran.code, ran.out.lines().count()), (74, 1), "{ran:?}");
        assert!(ran.err.contains("/nowhere.ndjson"), "{}", ran.err);
    }

    #[test]
    fn an_empty_body_is_no_entry() {
        let ran = parse(&["--strict"], "");
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    }

    #[test]
    fn who_stops_reading_ends_it_quietly() {
        let body = scratch("long.ndjson", format!("{A}\n").repeat(20_000));
        let mut child = Process::new(env!("CARGO_BIN_EXE_fleetdrain"))
            .args(["parse", &body])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        child.stdout.take().unwrap().read_exact(&mut byte).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    }
}

/// A control listener that gives one prepared answer a connection, and tells what it was asked.
struct Drain {
    url: String,
    asked: JoinHandle<Vec<String>>,
}

impl Drain {
    fn answering(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let answer = |text: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let head = read_head(&mut stream);
                stream.write_all(text.as_bytes()).unwrap();
                head
            };
            answers.into_iter().map(answer).collect()
        });
        Self { url, asked }
    }

    /// The command line with this drain's URL.
    fn run(&self, args: &[&str]) -> Ran {
        run(fleetdrain(args).env("FLEETDRAIN_URL", &self.url).env("FLEETDRAIN_TOKEN", "secret"))
    }

    /// The heads of the requests, in lower case.
    fn asked(self) -> Vec<String> {
        self.asked.join().unwrap()
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn whole(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// A chunked answer of these pieces; only a whole one has its last chunk.
fn stream(pieces: &[&str], is_whole: bool) -> String {
    let mut text = String::from("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in pieces {
        text.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    text + if is_whole { "0\r\n\r\n" } else { "" }
}

fn entry(id: &str, message: &str) -> String {
    format!(
        r#"{{"machine_id":"m1","message":"{message}","stream":"stdout","timestamp":"T","app_name":"web","region":"lax","host":"h","level":"info","id":"{id}","received_at":"R","machine_seq":1}}"#
    ) + "\n"
}

const END: &str = "{\"event\":\"end\",\"reason\":\"finished\"}\n";

mod tail {
    use super::*;

    #[test]
    fn lines_are_shown_until_the_end() {
        let lines = entry("1-1-1", "one") + "\n" + &entry("1-2-2", "two");
        let (first, second) = lines.split_at(70);
        let drain = Drain::answering(vec![stream(&[first, second, END], true)]);
        let ran = drain.run(&["tail", "-m", "m 1", "--last", "2"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.err, "fleetdrain: the machine is finished: nothing more comes until it is subscribed again\n");
        assert_eq!(ran.out, "T web[m1] lax [info] one\nT web[m1] lax [info] two\n");
        let asked = drain.asked();
        assert!(asked[0].starts_with("GET /api/v1/machines/m%201/logs?last=2 HTTP/1.1\r\n"), "{asked:?}");
        assert!(asked[0].to_lowercase().contains("authorization: bearer secret\r\n"), "{asked:?}");
    }

    #[test]
    fn a_broken_connection_is_resumed_after_the_last_id() {
        let half = entry("1-3-3", "three");
        let broken = stream(&[&entry("1-1-1", "one"), &entry("1-2-2", "two"), &half[..40]], false);
        let drain = Drain::answering(vec![
            broken,
            whole("503 Service Unavailable", "{\"title\":\"starting\"}"),
            stream(&[&half, END], true),
        ]);
        let ran = drain.run(&["tail", "-a", "web", "-o", "raw"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, "one\ntwo\nthree\n"), "{ran:?}");
        assert_eq!(ran.err.matches("resuming in").count(), 2, "{}", ran.err);
        let asked = drain.asked();
        assert!(asked[0].starts_with("GET /api/v1/tail?app=web HTTP/1.1"), "{asked:?}");
        assert!(asked[1].starts_with("GET /api/v1/tail?app=web&after=1-2-2 HTTP/1.1"), "{asked:?}");
        assert!(asked[2].starts_with("GET /api/v1/tail?app=web&after=1-2-2 HTTP/1.1"), "{asked:?}");
    }

    #[test]
    fn who_follows_goes_on_when_the_drain_is_restarted() {
        let shutdown = "{\"event\":\"end\",\"reason\":\"shutdown\"}\n";
        let answers =
            || vec![stream(&[&entry("1-1-1", "one"), shutdown], true), stream(&[&entry("1-2-2", "two"), END], true)];
        let drain = Drain::answering(answers());
        let ran = drain.run(&["tail", "-o", "raw"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, "one\ntwo\n"), "{ran:?}");
        assert!(drain.asked()[1].starts_with("GET /api/v1/tail?after=1-1-1 "));
        let ran = Drain::answering(answers()).run(&["tail", "-n", "-o", "raw"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, "one\n"), "{ran:?}");
    }

    #[test]
    fn who_gets_nothing_is_told_so() {
        let end = "{\"event\":\"end\",\"reason\":\"caught_up\"}\n";
        let ran = Drain::answering(vec![stream(&[end], true)]).run(&["tail", "-m", "unknown", "-n"]);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.trim()), (0, "", "fleetdrain: nothing is kept that matches"));
        let drain = Drain::answering(vec![stream(&["\n", "\n", &entry("1-1-1", "one"), "\n", END], true)]);
        let ran = drain.run(&["tail", "-m", "m1", "-o", "raw"]);
        assert_eq!(ran.out, "one\n");
        assert!(ran.err.starts_with("fleetdrain: nothing yet that matches; waiting\n"), "{}", ran.err);
    }

    #[test]
    fn a_stream_that_ends_without_saying_so_is_resumed() {
        let drain = Drain::answering(vec![
            stream(&[&entry("1-1-1", "one")], true),
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned(),
        ]);
        let ran = drain.run(&["tail", "-m", "m1", "-o", "raw"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, "one\n"), "{ran:?}");
        assert!(drain.asked()[1].starts_with("GET /api/v1/machines/m1/logs?after=1-1-1 "));
    }

    #[test]
    fn what_was_missed_is_told_on_standard_error() {
        let skipped = "{\"event\":\"skipped\",\"lines\":12}\n{\"event\":\"skipped\",\"lines\":null}\n";
        let line = entry("1-1-1", "one");
        let drain = Drain::answering(vec![stream(&[skipped, &line, END], true)]);
        let ran = drain.run(&["tail", "-j"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, line.as_str()));
        assert!(ran.err.contains("skipped 12 lines") && ran.err.contains("nobody knows how many"), "{}", ran.err);
    }

    #[test]
    fn bytes_go_through_a_pipe_as_they_are() {
        let drain = Drain::answering(vec![stream(&[&entry("1-1-1", "\\u001b[31ma\\tb\\u0000"), END], true)]);
        assert_eq!(drain.run(&["tail", "-o", "raw"]).out, "\x1b[31ma\tb\0\n");
    }

    #[test]
    fn colour_is_on_when_asked_for() {
        let answer = || vec![stream(&[&entry("1-1-1", "one"), END], true)];
        assert!(Drain::answering(answer()).run(&["tail", "--color", "always"]).out.contains("\x1b["));
        assert!(!Drain::answering(answer()).run(&["tail"]).out.contains('\x1b'));
    }

    #[test]
    fn a_bad_question_exits_64_and_a_wrong_token_78() {
        let problem = whole("400 Bad Request", "{\"title\":\"Bad Request\",\"detail\":\"include: not a regex\"}");
        let ran = Drain::answering(vec![problem]).run(&["tail", "-i", "("]);
        assert_eq!(ran.code, 64);
        assert!(ran.err.contains("include: not a regex"), "{}", ran.err);
        let ran = Drain::answering(vec![whole("401 Unauthorized", "{}")]).run(&["tail"]);
        assert_eq!(ran.code, 78);
        assert!(ran.err.contains("refuses the token in FLEETDRAIN_TOKEN (401)"), "{}", ran.err);
        let asked = Drain::answering(vec![whole("401 Unauthorized", "{}")]);
        let ran = run(fleetdrain(&["tail"]).env("FLEETDRAIN_URL", &asked.url));
        assert_eq!(ran.code, 78);
        assert!(ran.err.contains("asks for a token (401): set FLEETDRAIN_TOKEN"), "{}", ran.err);
    }

    #[test]
    fn until_exit_ends_as_the_machine_did() {
        let exited = |code: &str| format!("{{\"event\":\"end\",\"reason\":\"exited\",\"exit_code\":{code}}}\n");
        for (code, expected) in [("0", 0), ("7", 7), ("137", 137), ("-1", 255), ("256", 255), ("null", 69)] {
            let drain = Drain::answering(vec![stream(&[&entry("1-1-1", "one"), &exited(code)], true)]);
            let ran = drain.run(&["tail", "-m", "m1", "--until", "exit", "--linger", "2s", "-o", "raw"]);
            assert_eq!((ran.code, ran.out.as_str()), (expected, "one\n"), "{ran:?}");
            assert_eq!(ran.err.is_empty(), expected != 69, "{ran:?}");
            assert!(drain.asked()[0].starts_with("GET /api/v1/machines/m1/logs?until=exit&linger=2s "));
        }
    }

    #[test]
    fn until_exit_goes_on_after_a_break_and_is_told_when_there_was_no_exit() {
        let exited = "{\"event\":\"end\",\"reason\":\"exited\",\"exit_code\":3}\n";
        let drain = Drain::answering(vec![stream(&[&entry("1-1-1", "one")], true), stream(&[exited], true)]);
        let ran = drain.run(&["tail", "-m", "m1", "--until", "exit", "-o", "raw"]);
        assert_eq!((ran.code, ran.out.as_str()), (3, "one\n"), "{ran:?}");
        assert!(drain.asked()[1].starts_with("GET /api/v1/machines/m1/logs?after=1-1-1&until=exit "));
        let finished = "{\"event\":\"end\",\"reason\":\"finished\"}\n";
        let ran = Drain::answering(vec![stream(&[finished], true)]).run(&["tail", "-m", "m1", "--until", "exit"]);
        assert_eq!(ran.code, 69, "{ran:?}");
        assert!(ran.err.contains("ended (finished) and told of no exit"), "{ran:?}");
    }

    #[test]
    fn until_exit_is_for_one_machine_without_filters() {
        for args in [
            &["--until", "exit"][..],
            &["--until", "exit", "-m", "a", "-m", "b"],
            &["--until", "exit", "-m", "a", "-i", "x"],
            &["--until", "exit", "-m", "a", "-n"],
            &["--until", "finish", "-m", "a"],
            &["--linger", "5s", "-m", "a"],
        ] {
            let ran = run(&mut fleetdrain(&[&["tail"], args].concat()));
            assert_eq!(ran.code, 64, "{args:?}: {ran:?}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn an_interrupt_exits_130() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let child = Process::new(env!("CARGO_BIN_EXE_fleetdrain")).args(["tail", "--url", &url]).spawn().unwrap();
        // Once it has asked, its runtime waits for signals too.
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        let pid = child.id().to_string();
        assert!(Process::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
    }
}

mod reports {
    use super::*;

    #[test]
    fn machines_are_a_table() {
        let body = r#"{"machines":[{"machine_id":"m1","state":"live","app_name":"web","region":"lax","lines":1234,"lines_per_second":1.5,"queue_lines":null,"dropped":0}],"next":"x"}"#;
        let drain = Drain::answering(vec![whole("200 OK", body), whole("200 OK", body), whole("200 OK", body)]);
        let ran = drain.run(&["machines", "--sort", "lag", "--limit", "1"]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.starts_with("MACHINE") && ran.out.contains("1,234"), "{}", ran.out);
        assert_eq!(ran.err, "", "who asked for so many has them");
        assert!(drain.run(&["machines"]).err.contains("more machines"));
        assert_eq!(drain.run(&["machines", "--json"]).out, format!("{body}\n"));
        let asked = drain.asked();
        assert!(asked[0].starts_with("GET /api/v1/machines?sort=lag&limit=1 "));
        assert!(asked[1].starts_with("GET /api/v1/machines?sort=lines&limit=50 "), "{asked:?}");
    }

    #[test]
    fn losses_are_a_table_and_the_exit_code() {
        let body = r#"{"losses":[{"from":"2026-11-24T16:00:00.123Z","to":"2026-11-24T16:00:09Z","machine":"m1","app":null,"where":"queue","reason":"queue_full","lines":1234}],"kept":"memory","complete_since":"2026-11-24T15:00:00Z"}"#;
        let none = r#"{"losses":[],"kept":"disk","complete_since":null}"#;
        let drain = Drain::answering(vec![whole("200 OK", body), whole("200 OK", body), whole("200 OK", none)]);
        let ran = drain.run(&["losses", "--since", "366d", "-m", "m 1"]);
        assert_eq!(ran.code, 1);
        assert!(ran.out.starts_with("FROM") && ran.out.contains("queue  queue_full  1,234"), "{}", ran.out);
        assert!(ran.err.contains("reaches back to 2026-11-24T15:00:00Z only"), "{}", ran.err);
        let json = drain.run(&["losses", "--json"]);
        assert_eq!((json.code, json.out), (1, format!("{body}\n")));
        let none = drain.run(&["losses"]);
        assert_eq!((none.code, none.out.as_str(), none.err.as_str()), (0, "", ""));
        assert!(drain.asked()[0].starts_with("GET /api/v1/losses?since=366d&machine=m%201 "));
        let old = Drain::answering(vec![whole("200 OK", "{}")]).run(&["losses"]);
        assert_eq!(old.code, 69, "an answer that is not understood is no proof that nothing was lost");
    }

    const SINKS: &str = r#"{"sinks":[{"name":"archive","type":"file","state":"failing","lines_in":1234,"lines_delivered":1000,"lines_dropped":4,"lines_in_flight":230,"lag_seconds":75.2,"last_error":"disk full"},{"name":"search","type":"http","state":"running","lines_in":0,"lag_seconds":0.0,"last_error":null}]}"#;

    #[test]
    fn sinks_are_a_table() {
        let drain = Drain::answering(vec![whole("200 OK", SINKS), whole("200 OK", SINKS)]);
        let ran = drain.run(&["sinks"]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0][..4], ["SINK", "TYPE", "STATE", "IN"], "{}", ran.out);
        let archive = ["archive", "file", "failing", "1,234", "1,000", "4", "230", "1m15s", "disk", "full"];
        assert_eq!((rows.len(), rows[1].as_slice()), (3, &archive[..]), "{}", ran.out);
        assert_eq!(drain.run(&["sinks", "--json"]).out, format!("{SINKS}\n"));
        assert!(drain.asked().iter().all(|head| head.starts_with("GET /api/v1/sinks HTTP/1.1")));
        let none = Drain::answering(vec![whole("200 OK", r#"{"sinks":[]}"#)]).run(&["sinks"]);
        assert_eq!((none.code, none.out.as_str()), (0, ""));
        assert!(none.err.contains("has no sinks"), "{}", none.err);
    }

    #[test]
    fn a_sink_is_told_to_pause_to_go_on_and_to_go_back() {
        let sink = r#"{"name":"archive","type":"file","state":"paused","lines_in":1}"#;
        let rewound = r#"{"dry_run":false,"from":"2026-11-24T16:00:00Z","lines":12345}"#;
        let would = r#"{"dry_run":true,"from":"2026-11-24T16:00:00Z","lines":1}"#;
        let drain = Drain::answering([sink, sink, rewound, would].map(|body| whole("200 OK", body)).to_vec());
        assert!(drain.run(&["sinks", "pause", "archive"]).out.contains("paused"));
        assert_eq!(drain.run(&["sinks", "resume", "archive", "--json"]).out, format!("{sink}\n"));
        let ran = drain.run(&["sinks", "rewind", "archive", "--since", "120m"]);
        assert_eq!(ran.out, "archive: 12,345 lines, from 2026-11-24T16:00:00Z on, are delivered again\n");
        assert!(drain.run(&["sinks", "rewind", "archive", "--since", "2h", "--dry-run"]).out.contains("would be"));
        let asked = drain.asked();
        let lines: Vec<&str> = asked.iter().filter_map(|head| head.split(" HTTP/").next()).collect();
        let rewind = "POST /api/v1/sinks/archive/rewind?since=2h&dry_run=";
        let expected = [
            "POST /api/v1/sinks/archive/pause",
            "POST /api/v1/sinks/archive/resume",
            &format!("{rewind}false"),
            &format!("{rewind}true"),
        ];
        assert_eq!(lines, expected);
        assert_eq!(run(&mut fleetdrain(&["sinks", "rewind", "archive"])).code, 64, "how far is for the user to say");
    }

    #[test]
    fn a_sink_that_is_not_there_exits_64_and_those_that_are_are_told() {
        let missing = || whole("404 Not Found", r#"{"title":"Not Found","detail":"there is no such sink"}"#);
        for args in [&["pause"][..], &["resume"], &["rewind", "--since", "2h"]] {
            let ran = Drain::answering(vec![missing(), whole("200 OK", SINKS)])
                .run(&[&["sinks"], args, &["arch/ive"]].concat());
            assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{ran:?}");
            assert!(ran.err.contains("no sink \"arch/ive\": there are archive, search"), "{}", ran.err);
        }
        let conflict = whole("409 Conflict", r#"{"detail":"without a spool there is nothing to go back to"}"#);
        let ran = Drain::answering(vec![conflict]).run(&["sinks", "rewind", "archive", "--since", "2h"]);
        assert_eq!(ran.code, 69);
        assert!(ran.err.contains("without a spool"), "{}", ran.err);
    }

    #[test]
    fn stats_are_a_table() {
        let drain =
            Drain::answering(vec![whole("200 OK", r#"{"lines_received":1000,"lines_dropped":{"queue_full":2}}"#)]);
        let ran = drain.run(&["stats"]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("lines_received            1,000"), "{}", ran.out);
        assert!(drain.asked()[0].starts_with("GET /api/v1/stats "));
    }

    #[test]
    fn the_verdict_is_the_exit_code() {
        let healthy = Drain::answering(vec![whole("200 OK", r#"{"status":"ok","reasons":[]}"#)]).run(&["health"]);
        assert_eq!((healthy.code, healthy.out.as_str()), (0, "healthy\n"));
        let losing = whole("503 Service Unavailable", r#"{"status":"failing","reasons":["losing lines"]}"#);
        let losing = Drain::answering(vec![losing]).run(&["health"]);
        assert_eq!((losing.code, losing.out.as_str()), (69, "unhealthy\n  losing lines\n"));
        let senders = whole("405 Method Not Allowed", r#"{"detail":"GET is not allowed here"}"#);
        let wrong = Drain::answering(vec![senders]).run(&["health"]);
        assert_eq!((wrong.code, wrong.out.as_str()), (69, ""));
        assert!(wrong.err.contains("GET is not allowed here: it looks like the listener for senders"), "{wrong:?}");
    }

    #[test]
    fn a_drain_that_is_not_there_exits_69() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for command in ["tail", "machines", "stats", "losses", "sinks", "health"] {
            let ran = run(&mut fleetdrain(&[command, "--url", &format!("http://{free}")]));
            assert_eq!(ran.code, 69, "{ran:?}");
            assert!(ran.err.contains(&format!("cannot reach http://{free}")), "{}", ran.err);
        }
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_told_and_not_repeated() {
        let ran = run(fleetdrain(&["stats"]).env("FLEETDRAIN_TOKEN", "hunter 2"));
        assert_eq!(ran.code, 64);
        assert!(ran.err.contains("FLEETDRAIN_TOKEN") && !ran.err.contains("hunter"), "{}", ran.err);
    }
}
