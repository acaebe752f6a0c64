//! Where logs end by their machine's exit, on a paused clock.

use tokio::time::{advance, sleep};

use super::{patterns::flys, *};
use crate::{
    SubscribeOptions,
    collector::LogCollector,
    queue::Ended,
    record::{Limits, Parser},
    stream::{
        LogQueue, LogStream, Ready,
        view::{MachineView, Seen, ViewStart},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const EXITED: &str = "machine exited with exit code 137, not restarting";
/// It tells no code.
const POLICY: &str = "machine restart policy set to 'no', not restarting";
const STARTING: &str = " INFO Starting init (commit: 5293a085)...";
const CODE_2: &str = " INFO Main child exited normally with code: 2";

fn app(message: &str) -> String {
    record("app", message)
}

fn runner(message: &str) -> String {
    record("runner", message)
}

fn record(provider: &str, message: &str) -> String {
    let message = serde_json::to_string(message).unwrap();
    format!(
        "{{\"event\":{{\"provider\":\"{provider}\"}},\"fly\":{{\"app\":{{\"instance\":\"m\"}}}},\"message\":{message}}}\n"
    )
}

fn push(collector: &LogCollector, records: &[String]) {
    let _ = collector.push(records.concat()).unwrap();
}

/// Pushes bodies, each so many seconds after the one before, on a task of its own.
fn push_later(collector: &LogCollector, bodies: &[(u64, String)]) {
    let (collector, bodies) = (collector.clone(), bodies.to_vec());
    tokio::spawn(async move {
        for (wait, body) in bodies {
            sleep(SECOND * wait as u32).await;
            push(&collector, &[body]);
        }
    });
}

fn subscribed() -> (LogCollector, LogQueue) {
    let collector = LogCollector::default();
    let queue = collector.subscribe("m").unwrap();
    (collector, queue)
}

async fn messages(stream: &mut LogStream) -> Vec<String> {
    stream.collect().await.iter().map(|entry| entry.message().to_owned()).collect()
}

fn code(code: i32) -> Option<ExitStatus> {
    Some(ExitStatus { code: Some(code) })
}

fn view(collector: &LogCollector, backlog: bool) -> MachineView {
    let start = ViewStart { backlog, ..ViewStart::default() };
    MachineView::new(collector, "m", &start, |_| true).until_exit(LINGER, backlog)
}

/// What a view shows until its machine's exit, or for a minute.
async fn shown(view: &mut MachineView) -> (Vec<String>, Option<ExitStatus>) {
    let (mut messages, until) = (Vec::new(), Instant::now() + SECOND * 60);
    loop {
        match view.step() {
            Some(Seen::Lines(lines)) => messages.extend(lines.entries().map(|entry| entry.message().to_owned())),
            Some(Seen::Skipped(_) | Seen::Past) => panic!("nothing was evicted"),
            None if view.exited().is_some() || view.ended().is_some() || Instant::now() >= until => {
                return (messages, view.exited());
            }
            None => {
                let _ = tokio::time::timeout_at(until, view.changed()).await;
            }
        }
    }
}

#[test]
fn flys_words_are_read_the_same_with_and_without_regular_expressions() {
    let patterns = ExitPatterns::default();
    for (message, expected) in [
        ("machine exited with exit code 0, not restarting", code(0)),
        (EXITED, code(137)),
        ("machine exited with exit code -1, not restarting", code(-1)),
        ("machine exited with exit code 99999999999, not restarting", Some(ExitStatus::default())),
        ("machine restart policy set to 'no', not restarting", Some(ExitStatus::default())),
        ("machine has reached its max restart count (10)", Some(ExitStatus::default())),
        ("machine has reached its max restart count of 10", Some(ExitStatus::default())),
        ("machine exited with exit code 1, restarting", None),
        ("machine exited with exit code x, not restarting", None),
        ("machine exited with exit code , not restarting", None),
        ("machine did not have a restart policy, defaulting to restart", None),
        ("I say: machine exited with exit code 0, not restarting", None),
        ("Machine started in 1.162s", None),
        ("", None),
    ] {
        assert_eq!(patterns.read(message), expected, "{message}");
        assert_eq!(flys(message), expected, "{message}");
    }
}

#[test]
fn patterns_are_checked_and_the_code_is_their_capture() {
    let own = ExitPatterns::new(&["^gone$", r"^died, (?<code>\d{1,3})$"]).unwrap();
    assert_eq!(own.read("died, 7"), code(7));
    assert_eq!(own.read("gone"), Some(ExitStatus::default()));
    assert_eq!(own.read(EXITED), None);
    assert!(ExitPatterns::new(&["("]).unwrap_err().to_string().contains("\"(\""));
    assert!(ExitPatterns::new::<&str>(&[]).unwrap_err().to_string().contains("1 to 16"));
    assert!(ExitPatterns::new(&["x".repeat(1025)]).unwrap_err().to_string().contains("1025 bytes"));
    assert!(ExitPatterns::new(&[r"\w{1000}{100}"]).is_err(), "one that would grow beyond bounds");
}

#[test]
fn init_tells_codes_and_signals_and_that_it_starts() {
    let exited = |code| Some(InitWord::Exited(code));
    for (message, expected) in [
        (" INFO Main child exited normally with code: 0", exited(0)),
        (" INFO Main child exited normally with code: 137", exited(137)),
        (" INFO Main child exited with signal (with signal 'SIGKILL', core dumped? false)", exited(137)),
        (" INFO Main child exited with signal (with signal 'SIGINT', core dumped? false)", exited(130)),
        (" INFO Starting init (commit: 5293a085)...", Some(InitWord::Starting)),
        (" INFO Main child exited with signal (with signal 'SIGNEVER', core dumped? false)", None),
        (" INFO Main child exited normally with code: many", None),
        (" INFO Starting clean up.", None),
        // As an app's logger may write it, and init does not.
        ("INFO Main child exited normally with code: 137", None),
        ("  INFO Main child exited normally with code: 137", None),
        ("INFO Starting init (commit: 5293a085)...", None),
    ] {
        assert_eq!(InitWord::read(message), expected, "{message}");
    }
}

#[test]
fn only_a_record_of_the_app_tells_what_init_says() {
    let word = |body: String| {
        let parsed = Parser::default().parse(body.as_bytes(), Limits { line_bytes_max: 1 << 20, errors_max: 0 });
        let batch = Batch::new(body.into_bytes().into(), parsed.arena, parsed.rows, jiff::Timestamp::UNIX_EPOCH);
        word_of_init(&batch.view(0))
    };
    let init = app(CODE_2);
    assert_eq!(word(init.clone()), Some(InitWord::Exited(2)));
    assert_eq!(word(init.replace("\"app\"}", "\"\\u0061pp\"}")), Some(InitWord::Exited(2)));
    for body in [
        record("proxy", CODE_2),
        record("runner", CODE_2),
        init.replace("\"event\"", "\"events\""),
        init.replace("{\"provider\":\"app\"}", "\"app\""),
    ] {
        assert_eq!(word(body.clone()), None, "{body}");
    }
}

#[test]
fn only_a_system_record_of_the_runner_tells_an_exit() {
    let exits = |body: String| {
        let parsed = Parser::default().parse(body.as_bytes(), Limits { line_bytes_max: 1 << 20, errors_max: 0 });
        let batch = Batch::new(body.into_bytes().into(), parsed.arena, parsed.rows, jiff::Timestamp::UNIX_EPOCH);
        let exits = exits_in(&ExitPatterns::default(), &batch);
        exits.into_iter().map(|(group, exit)| (group, exit.status)).collect::<Vec<_>>()
    };
    assert_eq!(exits(runner(EXITED)), [(0, code(137).unwrap())]);
    for body in [
        app(EXITED),
        record("proxy", EXITED),
        runner(EXITED).replace("{\"event\"", "{\"stream\":\"stdout\",\"event\""),
        runner("Configuring firecracker"),
    ] {
        assert_eq!(exits(body.clone()), [], "{body}");
    }
    let named =
        runner(EXITED).replace("{\"event\"", "{\"stream\":\"system\",\"event\"").replace("runner", "r\\u0075nner");
    assert_eq!(exits(named), [(0, code(137).unwrap())]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_the_linger_is_over_and_shows_what_came_until_then() {
    let (collector, queue) = subscribed();
    push_later(&collector, &[(1, app("a")), (1, runner(EXITED)), (4, app("late")), (4, app("later"))]);
    let start = Instant::now();
    let mut stream = LogStream::new(queue.clone()).until_exit(LINGER);
    assert_eq!(stream.exit_status(), None);
    assert_eq!(messages(&mut stream).await, ["a", "late", "later"]);
    assert_eq!(start.elapsed(), SECOND * 15, "5 s behind the last of them");
    assert_eq!((stream.exit_status(), stream.done(), stream.timed_out()), (code(137), true, false));
    assert_eq!(stream.next().await.map(|_| ()), None);
    // The machine is not finished thereby.
    push(&collector, &[app("of the next life")]);
    assert_eq!(queue.lines(), 1);
}

#[tokio::test(start_paused = true)]
async fn late_lines_put_the_end_off_to_thirty_seconds_at_most() {
    let (collector, queue) = subscribed();
    push(&collector, &[runner(EXITED)]);
    let lines: Vec<_> = (0..20).map(|number| (3, app(&number.to_string()))).collect();
    push_later(&collector, &lines);
    let start = Instant::now();
    let (mut stream, mut view) = (LogStream::new(queue.clone()).until_exit(LINGER), view(&collector, true));
    let (read, seen) = tokio::join!(messages(&mut stream), shown(&mut view));
    assert_eq!(start.elapsed(), SECOND * 30);
    assert!((9..=10).contains(&read.len()), "{read:?}");
    assert_eq!((seen.0.len(), seen.1), (1 + read.len(), code(137)));
    sleep(SECOND * 40).await;
    assert_eq!(queue.lines(), 20 - read.len() as u64, "what came later waits for the next reader");
}

#[tokio::test(start_paused = true)]
async fn a_linger_is_the_readers_own_and_counts_as_thirty_seconds_at_most() {
    for (linger, seconds) in [(0, 0), (1, 1), (30, 30), (100, 30)] {
        let (collector, queue) = subscribed();
        let mut stream = LogStream::new(queue).until_exit(SECOND * linger);
        push(&collector, &[runner(EXITED)]);
        let start = Instant::now();
        assert_eq!(messages(&mut stream).await, [""; 0]);
        assert_eq!((start.elapsed(), stream.exit_status()), (SECOND * seconds, code(137)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_before_the_end_is_read_however_late_the_reader_is() {
    let (collector, queue) = subscribed();
    let mut stream = LogStream::new(queue.clone()).until_exit(LINGER);
    push(&collector, &[app("0"), app("1"), runner(EXITED), app("2")]);
    advance(SECOND * 3).await;
    push(&collector, &[app("3"), app("4")]);
    // A later life, with an exit of its own.
    advance(SECOND * 20).await;
    push(&collector, &[app("second"), runner("machine exited with exit code 2, not restarting")]);
    advance(SECOND * 100).await;
    assert_eq!(stream.next().await.unwrap().message(), "0");
    assert_eq!(stream.next_batch().await.unwrap().len(), 2);
    assert_eq!(messages(&mut stream).await, ["3", "4"]);
    assert_eq!((stream.exit_status(), queue.lines()), (code(137), 1));
    let mut next = LogStream::new(queue).until_exit(LINGER);
    assert_eq!(messages(&mut next).await, ["second"]);
    assert_eq!(next.exit_status(), code(2));
}

#[tokio::test(start_paused = true)]
async fn of_what_is_taken_without_a_wait_nothing_is_of_the_next_life() {
    let (collector, queue) = subscribed();
    let mut stream = LogStream::new(queue.clone()).until_exit(LINGER);
    push(&collector, &[app("0"), runner(EXITED)]);
    advance(SECOND * 20).await;
    push(&collector, &[app("second")]);
    assert!(stream.has_more(u64::MAX));
    assert!(matches!(stream.next_ready(), Some(Ready::Line(line)) if line.message() == "0"));
    assert!(stream.next_ready().is_none() && !stream.has_more(u64::MAX));
    stream.deliver();
    assert_eq!((stream.exit_status(), queue.lines()), (code(137), 1));
}

#[tokio::test(start_paused = true)]
async fn batches_end_with_the_exit_too() {
    let (collector, queue) = subscribed();
    let mut stream = LogStream::new(queue.clone()).until_exit(LINGER);
    push_later(&collector, &[(1, app("a")), (1, app("b") + &runner(EXITED)), (20, app("second"))]);
    let mut lines = 0;
    while let Some(batch) = stream.next_batch().await {
        lines += batch.len();
    }
    assert_eq!((lines, stream.lines_yielded(), stream.exit_status()), (2, 2, code(137)));
    sleep(SECOND * 20).await;
    assert_eq!(queue.lines(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_exit_counts_from_the_queues_beginning_and_is_told_once() {
    let collector = LogCollector::default();
    push(&collector, &[app("old"), runner(EXITED)]);
    // Created behind it: it is of an earlier life.
    let queue = collector.subscribe("m").unwrap();
    let mut stream = LogStream::new(queue.clone()).until_exit(LINGER).with_item_timeout(SECOND * 60);
    assert_eq!(messages(&mut stream).await, [""; 0]);
    assert!(stream.timed_out() && stream.exit_status().is_none());
    // While nobody reads, it waits for the next reader, and then it is told.
    push(&collector, &[app("new"), runner("machine exited with exit code 2, not restarting")]);
    advance(SECOND * 60).await;
    let mut stream = LogStream::new(queue.clone()).until_exit(LINGER);
    assert_eq!(messages(&mut stream).await, ["new"]);
    assert_eq!(stream.exit_status(), code(2));
    let mut stream = LogStream::new(queue).until_exit(LINGER).with_total_timeout(SECOND * 60);
    assert_eq!(messages(&mut stream).await, [""; 0]);
    assert!(stream.timed_out());
}

#[tokio::test(start_paused = true)]
async fn a_backlog_brings_its_exit_along() {
    let collector = LogCollector::default();
    push(&collector, &[app("old"), runner(EXITED)]);
    advance(SECOND * 60).await;
    let options = SubscribeOptions { backlog: true, ..SubscribeOptions::default() };
    let (queue, _) = collector.subscribe_with("m", options).unwrap();
    let mut stream = LogStream::new(queue).until_exit(LINGER);
    assert_eq!(messages(&mut stream).await, ["old"]);
    assert_eq!(stream.exit_status(), code(137));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_runs_again_has_not_exited() {
    for wait in [4, 6, 40] {
        let collector = LogCollector::default();
        push(&collector, &[runner(EXITED)]);
        advance(SECOND * wait).await;
        push(&collector, &[app("again")]);
        let start = Instant::now();
        let (_, exited) = shown(&mut view(&collector, true)).await;
        let (expected, elapsed) = if wait == 4 { (code(137), 5) } else { (None, 60) };
        assert_eq!((exited, start.elapsed()), (expected, SECOND * elapsed), "a line {wait} s behind the exit");
    }
}

#[tokio::test(start_paused = true)]
async fn a_view_of_an_exited_machine_shows_its_past_and_ends() {
    let collector = LogCollector::default();
    push(&collector, &[app("a"), runner("machine exited with exit code 0, not restarting")]);
    advance(SECOND * 20).await;
    push(&collector, &[app("b"), runner(EXITED), app("c")]);
    advance(SECOND * 3600).await;
    let start = Instant::now();
    let (messages, exited) = shown(&mut view(&collector, true)).await;
    assert_eq!((messages.len(), exited, start.elapsed()), (5, code(137), Duration::ZERO));
    // Only what comes: an exit of before does not count.
    push_later(&collector, &[(1, app("d")), (1, runner(EXITED))]);
    let (messages, exited) = shown(&mut view(&collector, false)).await;
    assert_eq!((messages, exited, start.elapsed()), (vec!["d".to_owned(), EXITED.to_owned()], code(137), SECOND * 7));
}

#[tokio::test(start_paused = true)]
async fn a_slow_view_ends_before_the_next_life() {
    let collector = LogCollector::default();
    let mut view = view(&collector, true);
    push(&collector, &[app("a"), runner(EXITED)]);
    advance(SECOND * 20).await;
    push(&collector, &[app("second")]);
    let (messages, exited) = shown(&mut view).await;
    assert_eq!((messages, exited), (vec!["a".to_owned(), EXITED.to_owned()], code(137)));
}

#[tokio::test(start_paused = true)]
async fn an_exit_without_a_code_gets_the_one_that_init_tells() {
    let init = app(" INFO Main child exited with signal (with signal 'SIGTERM', core dumped? false)");
    let clean = app(" INFO Starting clean up.");
    let (policy, coded) = (runner(POLICY), runner("machine exited with exit code 3, not restarting"));
    let cases = [
        (vec![init.clone() + &clean + &policy], Some(143)),
        (vec![init.clone(), clean.clone(), policy.clone()], Some(143)),
        (vec![policy.clone(), clean.clone() + &init], Some(143)),
        (vec![init.clone(), app("x") + &coded], Some(3)),
        (vec![clean + &policy], None),
    ];
    for (bodies, expected) in cases {
        exits_with(&bodies.iter().map(std::slice::from_ref).collect::<Vec<_>>(), expected).await;
    }
    let (collector, queue) = subscribed();
    let mut stream = LogStream::new(queue).until_exit(LINGER);
    let lines: Vec<_> = (0..LOOKED_BACK_MAX).map(|number| app(&number.to_string())).collect();
    push(&collector, &[init]);
    push(&collector, &lines);
    push(&collector, &[runner(POLICY)]);
    let _ = stream.collect().await;
    assert_eq!(stream.exit_status(), Some(ExitStatus::default()), "so far back it is of another life");
}

/// Pushes bodies: who reads the machine's queue, and who looks, is told this code.
async fn exits_with(bodies: &[&[String]], expected: Option<i32>) {
    let (collector, queue) = subscribed();
    let mut stream = LogStream::new(queue).until_exit(LINGER);
    bodies.iter().for_each(|body| push(&collector, body));
    let _ = stream.collect().await;
    assert_eq!(stream.exit_status(), Some(ExitStatus { code: expected }), "{bodies:?}");
    let (_, exited) = shown(&mut view(&collector, true)).await;
    assert_eq!(exited, Some(ExitStatus { code: expected }), "{bodies:?}");
}

#[tokio::test(start_paused = true)]
async fn the_code_of_an_exit_is_of_no_life_but_its_own() {
    let code_3 = " INFO Main child exited normally with code: 3";
    let start = || app(STARTING);
    let lives: [(&[&[String]], Option<i32>); 8] = [
        // The job exited with 2, was started again, and died without a word of init.
        (&[&[app(CODE_2)], &[start()], &[runner(POLICY)]], None),
        (&[&[app(CODE_2), start(), runner(POLICY)]], None),
        (&[&[app(CODE_2)], &[start(), runner(POLICY)]], None),
        (&[&[app(CODE_2), start()], &[runner(POLICY)]], None),
        (&[&[app(CODE_2), start(), app(code_3)], &[runner(POLICY)]], Some(3)),
        // Its word came late, and the next life began in the same body, or ended too.
        (&[&[runner(POLICY)], &[app(CODE_2), start(), app(code_3)]], Some(2)),
        (&[&[runner(POLICY), app(CODE_2), start(), app(code_3)]], Some(2)),
        (&[&[runner(POLICY)], &[start()], &[app(code_3)]], None),
    ];
    for (bodies, expected) in lives {
        exits_with(bodies, expected).await;
    }
    // Its start stands behind its exit in one body, and what the next life tells comes later.
    let (collector, queue) = subscribed();
    let mut stream = LogStream::new(queue).until_exit(LINGER);
    push(&collector, &[runner(POLICY), start()]);
    push(&collector, &[app(code_3)]);
    let _ = stream.collect().await;
    assert_eq!(stream.exit_status(), Some(ExitStatus::default()));
}

#[tokio::test(start_paused = true)]
async fn a_finish_behind_the_exit_ends_the_log_with_it_and_at_once() {
    let (collector, queue) = subscribed();
    let start = Instant::now();
    let (mut stream, mut view) = (LogStream::new(queue.clone()).until_exit(LINGER), view(&collector, true));
    push(&collector, &[app("a"), runner(EXITED)]);
    collector.finish("m");
    assert_eq!(messages(&mut stream).await, ["a"]);
    assert_eq!((stream.exit_status(), shown(&mut view).await.1), (code(137), code(137)));
    assert_eq!(start.elapsed(), Duration::ZERO);
    // Without an exit it is a finish like any other.
    let collector = LogCollector::default();
    let mut stream = LogStream::new(collector.subscribe("m").unwrap()).until_exit(LINGER);
    collector.finish("m");
    assert_eq!(messages(&mut stream).await, [""; 0]);
    assert_eq!((stream.exit_status(), stream.outcome()), (None, Some(Ok(Ended::Finished))));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_who_waited() {
    let (collector, queue) = subscribed();
    let machine = std::sync::Arc::clone(queue.machine());
    let stream = LogStream::new(queue).until_exit(LINGER);
    let view = view(&collector, true);
    assert!(!machine.with_exits(|exits| exits.is_empty()));
    drop((stream, view));
    assert!(machine.with_exits(|exits| exits.is_empty()));
}
