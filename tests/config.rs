//! What an operator may rely on when something is set, misspelt or out of bounds.

// clippy.toml lets tests unwrap, but sees only functions marked as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf, time::Duration};

use fleetdrain::config::{
    Config, Flag, Full, Loaded, MachineMemory, Mistakes, SETTINGS, Source, Sources, default_toml, load, reference,
};

const MIB: usize = 1 << 20;

/// Sources with nothing set on a machine of 8 GiB.
fn nothing() -> Sources {
    let memory = MachineMemory { bytes: 8 << 30, from: "cgroup limit" };
    Sources { memory: Some(memory), ..Sources::default() }
}

fn file(text: &str) -> Sources {
    Sources { file: Some((PathBuf::from("fleetdrain.toml"), text.to_owned())), ..nothing() }
}

fn env(variables: &[(&str, &str)]) -> Sources {
    Sources {
        env: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..nothing()
    }
}

fn memory(bytes: u64) -> Sources {
    Sources { memory: Some(MachineMemory { bytes, from: "cgroup limit" }), ..Sources::default() }
}

fn config(sources: &Sources) -> Config {
    load(sources).unwrap_or_else(|mistakes| panic!("{mistakes}")).config
}

fn mistakes(sources: &Sources) -> String {
    load(sources).map(|loaded| loaded.config).expect_err("these sources are wrong").to_string()
}

fn source_of(loaded: &Loaded, key: &str) -> Source {
    loaded.effective().find(|effective| effective.setting.key == key).unwrap().source
}

/// A file in the directory that cargo keeps for tests.
fn token_file(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = config(&nothing());
    assert_eq!(config.ingest.body_bytes_max, 64 * MIB);
    assert_eq!(config.ingest.decoded_bytes_max, 256 * MIB);
    assert_eq!(config.ingest.line_bytes_max, MIB);
    assert_eq!(config.memory.budget, 1024 * MIB);
    assert_eq!(config.history.bytes, 256 * MIB);
    assert_eq!((config.queue.lines, config.queue.bytes), (10_000, 4 * MIB));
    assert_eq!(config.queue.full, Full::CatchUp);
    assert_eq!(config.machines.finished_keep, Duration::from_secs(3600));
    assert_eq!(config.shutdown.deadline, Duration::from_secs(4));
    assert_eq!(config.ingest.listen, None);
    assert_eq!(config.control.listen, Some("127.0.0.1:8081".parse().unwrap()));
}

#[test]
fn every_key_can_be_set_in_the_file() {
    let text = r#"
        [ingest]
        listen = "127.0.0.1:0"
        body_bytes_max = "10MB"
        decoded_bytes_max = 1048576
        line_bytes_max = "64KiB"
        header_deadline = "500ms"
        body_deadline = "1m30s"
        ack_deadline = "20s"
        idle = "1h"
        connections_max = 1_000
        [control]
        listen = "[::1]:0"
        cors_origins = ["https://page.example", "http://localhost:3000"]
        insecure = false
        stalled_after = "5m"
        [backpressure]
        wait = "0s"
        waiting_max = 0
        [idempotency]
        keys_max = 5
        keep = "1d"
        [memory]
        budget = "512MiB"
        [history]
        bytes = 0
        [queue]
        lines = 1
        bytes = "1KiB"
        full = "drop_oldest"
        streams = ["stdout", "stderr"]
        stalled_after = "1s"
        abandoned_after = "2s"
        subscriptions_max = 3
        [machines]
        finished_keep = "0s"
        idle_expire = "4s"
        max = 6
        [journal]
        dir = "/var/lib/fleetdrain"
        bytes_max = "64KiB"
        [limit.machine]
        lines_per_second = 7
        bytes_per_second = "8KiB"
        [limit]
        app.lines_per_second = 9
        app.bytes_per_second = 10
        [metrics]
        machines_max = 0
        [fly]
        enabled = false
        url = "nats://localhost:4222"
        org = "my-org"
        subjects = ["logs.my-app.>", "logs.other.>"]
        queue_group = "drains"
        batch_lines = 10
        batch_bytes = "1KiB"
        batch_age = "2ms"
        pending_max = 11
        canary = false
        exit_patterns = ['^gone, (?<code>[0-9]+)$']
        boot_lines = "system"
        [spool]
        dir = "/var/lib/fleetdrain"
        keep = "7d"
        bytes_max = "1GiB"
        full = "drop_oldest"
        [shutdown]
        deadline = "9s"
        [log]
        format = "json"
        level = "warn"
    "#;
    let loaded = load(&file(text)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let unset: Vec<_> =
        loaded.effective().filter(|one| one.source != Source::File).map(|one| one.setting.key).collect();
    let files = ["token_file", "tls_cert_file", "tls_key_file"];
    let mut files: Vec<_> =
        ["ingest", "control"].iter().flat_map(|section| files.map(|file| format!("{section}.{file}"))).collect();
    files.extend(["control.signing_key_file".to_owned(), "fly.token_file".to_owned()]);
    assert_eq!(unset, files);
    let config = &loaded.config;
    assert_eq!(config.ingest.body_bytes_max, 10_000_000);
    assert_eq!(config.ingest.body_deadline, Duration::from_secs(90));
    assert_eq!(config.ingest.ack_deadline, Duration::from_secs(20));
    assert_eq!(config.control.listen, Some("[::1]:0".parse().unwrap()));
    assert_eq!(config.queue.streams.to_string(), "stdout,stderr");
    assert_eq!(config.control.stalled_after, Duration::from_secs(300));
    assert_eq!(config.control.cors_origins, ["https://page.example", "http://localhost:3000"]);
    assert_eq!(config.queue.full, Full::DropOldest);
    assert_eq!(config.history.bytes, 0);
    assert_eq!((config.limit.machine.lines_per_second, config.limit.machine.bytes_per_second), (7, 8192));
    assert_eq!((config.limit.app.lines_per_second, config.limit.app.bytes_per_second), (9, 10));
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    for setting in &SETTINGS {
        // A path has no default to set.
        let Some(default) = setting.default_text().filter(|_| setting.derived.is_none()) else { continue };
        let loaded = load(&env(&[(&setting.variable(), &default)]));
        let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(source_of(&loaded, setting.key), Source::Env, "{}", setting.key);
    }
}

#[test]
fn a_key_of_an_inner_table_is_led_to_the_right_one() {
    let found = mistakes(&file("[limit.machine]\nlines_per_secund = 5\n[limit]\napp = 3\nmachines.x = 1\n"));
    assert!(
        found.contains(
            "fleetdrain.toml:2:1: limit.machine.lines_per_secund: unknown key, the nearest is limit.machine.lines_per_second"
        ),
        "{found}"
    );
    assert!(found.contains("fleetdrain.toml:4:1: limit.app: unknown key"), "{found}");
    assert!(found.contains("limit.machines: unknown key"), "{found}");
    let found = mistakes(&env(&[("FLEETDRAIN_LIMIT__APP__LINES", "5")]));
    assert!(found.contains("FLEETDRAIN_LIMIT__APP__LINES_PER_SECOND"), "{found}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut sources = file("[queue]\nlines = 1\nbytes = 1\nsubscriptions_max = 1\n");
    sources.env = env(&[("FLEETDRAIN_QUEUE__LINES", "2"), ("FLEETDRAIN_QUEUE__BYTES", "2KiB")]).env;
    sources.flags = vec![Flag { name: "--lines", key: "queue.lines", value: "3".to_owned() }];
    let loaded = load(&sources).unwrap();
    let queue = &loaded.config.queue;
    assert_eq!((queue.lines, queue.bytes, queue.subscriptions_max), (3, 2048, 1));
    assert_eq!(source_of(&loaded, "queue.lines"), Source::Flag);
    assert_eq!(source_of(&loaded, "queue.bytes"), Source::Env);
    assert_eq!(source_of(&loaded, "queue.subscriptions_max"), Source::File);
    assert_eq!(source_of(&loaded, "queue.full"), Source::Default);
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest() {
    let text = "# a comment\n[ingest]\n  body_byte_max = 5\n[qeue]\nlines = 1\n[ingest.listen]\n[sinkss.a]\n";
    let mistakes = mistakes(&file(text));
    let lines: Vec<_> = mistakes.lines().collect();
    assert!(
        lines.contains(&"fleetdrain.toml:3:3: ingest.body_byte_max: unknown key, the nearest is ingest.body_bytes_max"),
        "{mistakes}"
    );
    assert!(lines.contains(&"fleetdrain.toml:4:2: qeue: unknown section, the nearest is queue"), "{mistakes}");
    assert!(mistakes.contains("ingest.listen: a table is not HOST:PORT"), "{mistakes}");
    assert!(mistakes.contains("fleetdrain.toml:7:2: sinkss: unknown section, the nearest is sinks"), "{mistakes}");
}

#[test]
fn all_mistakes_of_a_sink_are_told_at_once() {
    let text = "[sinks.store]\ntype = \"http\"\nformat = \"loki\"\nurl = \"ftp://u:secret@a/b?key=secret\"\nbatch_lines_max = 0\n\
                ack = \"maybe\"\n[sinks.files]\ntype = \"file\"\ncompression = \"lz4\"\nfile_byte_max = 1\n\
                [sinks.table]\ntype = \"http\"\nurl = \"http://a\"\nindex = \"logs\"\n";
    let mistakes = mistakes(&file(text));
    let wanted = [
        "fleetdrain.toml:4:1: sinks.store.url: \"…\": expected http:// or https://",
        "fleetdrain.toml:5:1: sinks.store.batch_lines_max: 0 is not between 1 and 1000000",
        "fleetdrain.toml:6:1: sinks.store.ack: \"maybe\" is not one of none, sink",
        "fleetdrain.toml:9:1: sinks.files.compression: \"lz4\" is not one of none, zstd, gzip",
        "fleetdrain.toml:10:1: sinks.files.file_byte_max: unknown key, the nearest is file_bytes_max",
        "fleetdrain.toml:7:8: sinks.files: it needs directory",
        "fleetdrain.toml:14:1: sinks.table.index: it is for format = \"elasticsearch\" alone",
    ];
    for wanted in wanted {
        assert!(mistakes.lines().any(|line| line.starts_with(wanted)), "{wanted}\n{mistakes}");
    }
    assert_eq!(mistakes.lines().count(), wanted.len(), "{mistakes}");
    assert!(
        mistakes.starts_with("fleetdrain.toml:4:1: ") && mistakes.contains("\nfleetdrain.toml:14:1: "),
        "as one reads: {mistakes}"
    );
    for (url, shown) in [
        ("ftp://u:p?secret@h", "…"),
        ("u:secret?x@h", "…"),
        ("https://st ore/secret", "https://st ore"),
        ("ftp://h/secret?secret", "ftp://h"),
        ("secret@h", "…"),
    ] {
        let told = self::mistakes(&file(&format!("[sinks.store]\ntype = \"http\"\nurl = {url:?}\n")));
        assert!(told.contains(&format!("sinks.store.url: {shown:?}: ")) && !told.contains("secret"), "{url}: {told}");
    }
}

#[test]
fn a_sink_is_set_by_variables_as_it_is_by_the_file() {
    let base = [("FLEETDRAIN_SINKS__A__TYPE", "file"), ("FLEETDRAIN_SINKS__A__DIRECTORY", "/var/a")];
    let with = |more: &[(&str, &str)]| env(&[&base[..], more].concat());
    for value in ["404", "true", "[12]", "[a-z", "1.5"] {
        let told = load(&with(&[("FLEETDRAIN_SINKS__A__INCLUDE", value)]));
        assert_eq!(told.is_ok(), value != "[a-z", "{value}");
    }
    let lists = [("FLEETDRAIN_SINKS__A__APPS", "web, 404"), ("FLEETDRAIN_SINKS__A__LEVELS", "[\"error\"]")];
    config(&with(&lists));
    config(&with(&[("FLEETDRAIN_SINKS__A__CONCURRENCY_MAX", "4"), ("FLEETDRAIN_SINKS__A__BATCH_AGE_MAX", "2s")]));
    let told =
        mistakes(&with(&[("FLEETDRAIN_SINKS__A__CONCURRENCY_MAX", "true"), ("FLEETDRAIN_SINKS__A__EXCLUDE", "7")]));
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("FLEETDRAIN_SINKS__A__CONCURRENCY_MAX"), "{told}");
}

#[test]
fn a_stream_that_hardly_any_record_has_is_told() {
    let loaded = load(&file("[sinks.a]\ntype = \"null\"\nstreams = [\"stdout\", \"stdouts\"]\n")).unwrap();
    let told: Vec<_> =
        loaded.warnings.iter().filter(|warning| warning.starts_with("sinks.a.streams: \"stdouts\" ")).collect();
    assert_eq!(told.len(), 1, "{:?}", loaded.warnings);
    assert!(!loaded.warnings.iter().any(|warning| warning.contains("\"stdout\"")), "{:?}", loaded.warnings);
}

#[test]
fn a_directory_of_two_sinks_is_a_mistake() {
    let sinks = |one: &str, other: &str| {
        let sink = |name, directory| format!("[sinks.{name}]\ntype = \"file\"\ndirectory = {directory:?}\n");
        file(&[sink("archive", one), sink("copy", other)].concat())
    };
    for (one, other) in [("/var/a", "/var/a"), ("/var/a", "/var/a/"), ("/var/a", "/var/a/b"), ("/var", "/var/a")] {
        let mistakes = mistakes(&sinks(one, other));
        let wanted = format!(
            "fleetdrain.toml:6:1: sinks.copy.directory: {other:?}: sinks.archive has {one:?} for itself, with all below it"
        );
        assert!(mistakes.contains(&wanted), "{mistakes}");
    }
    config(&sinks("/var/a", "/var/ab"));
    config(&sinks("/var/a", "/var/a/../b"));
    // By another name, and beside our own.
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("linked");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("real")).unwrap();
    std::os::unix::fs::symlink(dir.join("real"), dir.join("link")).unwrap();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let told = mistakes(&sinks(&path("real"), &path("link/deeper")));
    assert!(told.contains("sinks.copy.directory") && told.lines().count() == 1, "{told}");
    let spool =
        format!("[spool]\ndir = {:?}\n[sinks.a]\ntype = \"file\"\ndirectory = {:?}\n", path("link"), path("real/a"));
    let told = mistakes(&file(&spool));
    assert!(told.contains("sinks.a.directory: ") && told.contains("spool.dir has "), "{told}");
}

#[test]
fn a_key_in_the_wrong_section_is_led_to_the_right_one() {
    let mistakes = mistakes(&file("budget = 5\n[queue]\nbudget = 5\n"));
    assert!(mistakes.contains("fleetdrain.toml:1:1: budget: unknown key, the nearest is memory.budget"), "{mistakes}");
    assert!(
        mistakes.contains("fleetdrain.toml:3:1: queue.budget: unknown key, the nearest is memory.budget"),
        "{mistakes}"
    );
}

#[test]
fn an_unknown_variable_is_named_with_the_nearest() {
    let mistakes = mistakes(&env(&[("FLEETDRAIN_INGEST__LISTENS", "x"), ("FLEETDRAIN_CONTROL__TOKENS", "x")]));
    assert!(
        mistakes.contains("FLEETDRAIN_INGEST__LISTENS: unknown variable, the nearest is FLEETDRAIN_INGEST__LISTEN"),
        "{mistakes}"
    );
    assert!(
        mistakes.contains("FLEETDRAIN_CONTROL__TOKENS: unknown variable, the nearest is FLEETDRAIN_CONTROL__TOKEN")
    );
}

#[test]
fn the_log_level_is_a_setting_like_any_other() {
    let level = |text: &str| config(&env(&[("FLEETDRAIN_LOG__LEVEL", text)])).log.level;
    assert_eq!(level("debug"), "debug");
    assert_eq!(level("info,fleetdrain::http=debug"), "info,fleetdrain::http=debug");
    let text = mistakes(&file("[log]\nlevel = \"inof\"\n"));
    assert!(text.contains("log.level: \"inof\" is not error, warn"), "{text}");
}

#[test]
fn variables_without_two_underscores_are_not_read() {
    let loaded = load(&env(&[
        ("FLEETDRAIN_URL", "http://x"),
        ("FLEETDRAIN_TOKEN", "x"),
        ("FLEETDRAIN_SPOOL_DIR", "/data"),
        ("PATH", ""),
    ]))
    .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.config.spool.dir, None);
    // Who set it believes that it counts.
    let told: Vec<_> = loaded.warnings.iter().filter(|warning| warning.contains("is not read")).collect();
    assert!(told.len() == 1 && told[0].starts_with("FLEETDRAIN_SPOOL_DIR is"), "{told:?}");
    assert!(told[0].ends_with("such as FLEETDRAIN_SPOOL__DIR"), "{told:?}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mut sources = file("[queue]\nlines = 0\nfull = \"maybe\"\n[ingest]\nidle = 5\nlisten = \"8080\"\n");
    sources.env = env(&[("FLEETDRAIN_MEMORY__BUDGET", "lots"), ("FLEETDRAIN_INGEST__DECODED_BYTES_MAX", "2GiB")]).env;
    sources.flags = vec![Flag { name: "--control", key: "control.listen", value: "0.0.0.0:8081".to_owned() }];
    let mistakes = mistakes(&sources);
    for expected in [
        "fleetdrain.toml:2:9: queue.lines: 0 is not between 1 and 100000000",
        "fleetdrain.toml:3:8: queue.full: \"maybe\" is not catch_up, block or drop_oldest",
        "fleetdrain.toml:5:8: ingest.idle: 5 is not a duration such as 500ms, 30s or 1h30m",
        "fleetdrain.toml:6:10: ingest.listen: \"8080\" is not HOST:PORT, such as 0.0.0.0:8080 or [::]:8080",
        "FLEETDRAIN_MEMORY__BUDGET: memory.budget: \"lots\" is not a size such as 65536, 64KiB or 10MB",
        "FLEETDRAIN_INGEST__DECODED_BYTES_MAX: ingest.decoded_bytes_max: 2GiB is not between 1 and 1GiB",
        "--control: control.listen: 0.0.0.0:8081 is not loopback",
    ] {
        assert!(mistakes.contains(expected), "{expected} is missing from:\n{mistakes}");
    }
    assert_eq!(mistakes.lines().count(), 7, "{mistakes}");
}

#[test]
fn a_number_out_of_all_bounds_is_told_its_bounds() {
    for (given, told) in [
        ("-3", "-3 is not between 1 and 100000000"),
        ("99999999999999999999", "99999999999999999999 is not between 1 and 100000000"),
        ("\"-3\"", "\"-3\" is not between 1 and 100000000"),
        ("1.5", "1.5 is not a whole number"),
        ("\"\"", "\"\" is not a whole number"),
        ("\"-\"", "\"-\" is not a whole number"),
    ] {
        let mistakes = mistakes(&file(&format!("[queue]\nlines = {given}\n")));
        assert_eq!(mistakes.trim_end(), format!("fleetdrain.toml:2:9: queue.lines: {told}"));
    }
}

#[test]
fn broken_toml_is_told_with_its_place() {
    let mistakes = mistakes(&file("[queue]\nlines = \n"));
    assert!(mistakes.starts_with("fleetdrain.toml:2:"), "{mistakes}");
}

proptest::proptest! {
    /// Close to TOML, so that the text gets past the parser often enough.
    #[test]
    fn no_file_makes_it_panic(text in r#"(\[?(ingest|queue|é)?\]?\.?(listen|lines|token|x)? ?=? ?("é"|5|-1|0x5|1\.5|\[1\]|\{a=1\}|99999999999999999999)?(\r?\n)?){0,6}"#) {
        let _ = load(&file(&text));
    }

    #[test]
    fn no_variable_makes_it_panic(name in "FLEETDRAIN_[A-Zé_]{0,20}", value in "[^/]{0,20}") {
        // No slash and no letter-only host: nothing is read from disk or asked of the network.
        let _ = load(&env(&[(&name, &value)]));
    }
}

#[test]
fn columns_count_characters() {
    let mistakes = mistakes(&file("log = { \"é\" = 1, format = \"é\" }\n"));
    assert!(mistakes.contains("fleetdrain.toml:1:9: log.é: unknown key"), "{mistakes}");
    assert!(mistakes.contains("fleetdrain.toml:1:27: log.format: \"é\" is not auto, text or json"), "{mistakes}");
}

#[test]
fn a_token_in_the_file_is_refused_and_not_repeated() {
    let mistakes = mistakes(&file("[control]\ntoken = \"hunter2\"\n[ingest]\ntoken = \"hunter2\"\n"));
    assert!(mistakes.contains("fleetdrain.toml:2:1: control.token: tokens do not belong in this file"), "{mistakes}");
    assert!(mistakes.contains("use control.token_file or FLEETDRAIN_CONTROL__TOKEN"), "{mistakes}");
    assert!(mistakes.contains("use ingest.token_file or FLEETDRAIN_INGEST__TOKEN"), "{mistakes}");
    assert!(!mistakes.contains("hunter2"), "{mistakes}");
}

#[test]
fn tokens_come_from_environment_and_file_and_all_are_live() {
    let path = token_file("tokens", "one\n\n  two \r\n");
    let sources = env(&[("FLEETDRAIN_INGEST__TOKEN", "three"), ("FLEETDRAIN_INGEST__TOKEN_FILE", &path)]);
    assert_eq!(config(&sources).ingest.tokens, ["three", "one", "two"]);
    assert!(config(&sources).control.tokens.is_empty());
}

#[test]
fn a_token_that_is_none_never_opens_a_door() {
    let empty = token_file("empty", "\n \n");
    let blank = token_file("blank", "good\nwith blank\n");
    for (value, expected) in [
        (empty.as_str(), "it holds no token"),
        (&blank, "the token on line 2 holds a blank"),
        ("/nowhere", "cannot read /nowhere"),
    ] {
        let found = mistakes(&env(&[("FLEETDRAIN_CONTROL__TOKEN_FILE", value)]));
        assert!(found.contains(expected), "{found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    assert!(mistakes(&env(&[("FLEETDRAIN_CONTROL__TOKEN", " ")])).contains("it holds no token"));
}

#[test]
fn signing_keys_lock_the_door_and_short_ones_are_told_and_not_repeated() {
    let keys = token_file("keys", "hunter2 hunter2 hunter2 hunter2 hunter2\n");
    let set = |path: &str| env(&[("FLEETDRAIN_CONTROL__SIGNING_KEY_FILE", path)]);
    let mut off_loopback = set(&keys);
    off_loopback.env.extend(env(&[("FLEETDRAIN_CONTROL__LISTEN", "0.0.0.0:8081")]).env);
    let loaded = load(&off_loopback).unwrap();
    assert_eq!(loaded.config.control.signing_keys.len(), 1);
    let warning = "control has signing keys and no token: nobody reads more than a link shows";
    assert_eq!(loaded.warnings.iter().filter(|told| told.starts_with("control")).collect::<Vec<_>>(), [warning]);
    for (text, expected) in [
        ("hunter2\n", "control.signing_key_file: the signing key on line 1 has 7 bytes, at least 32 are needed"),
        ("\n \n", "holds no signing key"),
    ] {
        let found = mistakes(&set(&token_file("bad-keys", text)));
        assert!(found.contains(expected) && !found.contains("hunter2"), "{found}");
    }
    assert!(mistakes(&set("/nowhere")).contains("cannot read /nowhere"));
}

#[test]
fn origins_are_exact_and_do_nothing_in_front_of_an_open_door() {
    let origins = ("FLEETDRAIN_CONTROL__CORS_ORIGINS", "https://a.example, http://b.example:81");
    let loaded = load(&env(&[origins])).unwrap();
    assert_eq!(loaded.config.control.cors_origins, ["https://a.example", "http://b.example:81"]);
    assert!(loaded.warnings.iter().any(|warning| warning.starts_with("control.cors_origins")), "{:?}", loaded.warnings);
    let locked = load(&env(&[origins, ("FLEETDRAIN_CONTROL__TOKEN", "secret")])).unwrap();
    assert!(!locked.warnings.iter().any(|warning| warning.starts_with("control.")), "{:?}", locked.warnings);
    for bad in ["*", "null", "https://a.example/", "a.example", "https://a.example,,"] {
        let found = mistakes(&env(&[("FLEETDRAIN_CONTROL__CORS_ORIGINS", bad)]));
        assert!(found.contains(&format!("{bad:?} is not a list of origins")), "{found}");
    }
}

#[test]
fn tls_takes_a_certificate_and_its_key_or_neither() {
    let found = mistakes(&file("[ingest]\ntls_cert_file = \"cert.pem\"\n[control]\ntls_key_file = \"key.pem\"\n"));
    let expected = [
        "fleetdrain.toml:2:17: ingest.tls_cert_file: it needs ingest.tls_key_file: TLS takes both or neither",
        "fleetdrain.toml:4:16: control.tls_key_file: it needs control.tls_cert_file: TLS takes both or neither",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

#[cfg(feature = "tls")]
#[test]
fn a_certificate_is_read_and_checked_with_the_rest() {
    let signed = rcgen::generate_simple_self_signed(["drain.example".to_owned()]).unwrap();
    let cert = token_file("cert.pem", &signed.cert.pem());
    let key = token_file("key.pem", &signed.signing_key.serialize_pem());
    let tls = |cert: &str, key: &str| {
        env(&[("FLEETDRAIN_CONTROL__TLS_CERT_FILE", cert), ("FLEETDRAIN_CONTROL__TLS_KEY_FILE", key)])
    };
    let loaded = load(&tls(&cert, &key)).unwrap();
    assert!(loaded.config.control.identity.is_some() && loaded.config.ingest.identity.is_none());
    let told = loaded.effective().find(|one| one.setting.key == "control.tls_cert_file").unwrap().note.unwrap();
    assert!(told.starts_with("expires "), "{told}");
    for (sources, expected) in [
        (tls(&key, &key), format!("control.tls_cert_file: {key}: it holds no certificate in PEM")),
        (tls(&cert, &cert), format!("control.tls_key_file: {cert}: it holds no private key in PEM")),
        (tls(&cert, "/nowhere"), "control.tls_key_file: cannot read /nowhere".to_owned()),
    ] {
        let found = mistakes(&sources);
        assert!(found.contains(&expected), "{found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn an_expired_certificate_is_a_warning() {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = token_file("expired.pem", &params.self_signed(&key).unwrap().pem());
    let key = token_file("expired.key", &key.serialize_pem());
    let loaded = load(&env(&[("FLEETDRAIN_INGEST__TLS_CERT_FILE", &cert), ("FLEETDRAIN_INGEST__TLS_KEY_FILE", &key)]));
    let warnings = loaded.unwrap().warnings;
    let expected = "ingest.tls_cert_file: a certificate has expired, 2021-01-01T00:00:00Z";
    assert!(warnings.iter().any(|warning| warning == expected), "{warnings:?}");
}

#[test]
fn control_off_loopback_needs_a_token() {
    let open = ("FLEETDRAIN_CONTROL__LISTEN", "0.0.0.0:8081");
    assert!(mistakes(&env(&[open])).contains("--insecure-control"));
    config(&env(&[open, ("FLEETDRAIN_CONTROL__TOKEN", "secret")]));
    let insecure = load(&env(&[open, ("FLEETDRAIN_CONTROL__INSECURE", "true")])).unwrap();
    assert!(insecure.warnings.iter().any(|warning| warning.contains("reads every log")), "{:?}", insecure.warnings);
    for loopback in ["127.0.0.2:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"] {
        config(&env(&[("FLEETDRAIN_CONTROL__LISTEN", loopback)]));
    }
}

#[test]
fn control_listens_on_all_addresses_on_fly_with_a_token() {
    let on_fly = ("FLY_APP_NAME", "drain");
    let token = ("FLEETDRAIN_CONTROL__TOKEN", "secret");
    let listen = |variables: &[(&str, &str)]| config(&env(variables)).control.listen.unwrap().to_string();
    assert_eq!(listen(&[on_fly, token]), "[::]:8081");
    assert_eq!(listen(&[on_fly]), "127.0.0.1:8081");
    assert_eq!(listen(&[token]), "127.0.0.1:8081");
    assert_eq!(listen(&[on_fly, token, ("FLEETDRAIN_CONTROL__LISTEN", "127.0.0.1:9")]), "127.0.0.1:9");
}

#[test]
fn addresses_that_are_none_are_not_asked_of_the_network() {
    for bad in ["::1:8080", "256.1.1.1:80", ":8080", "localhost", "localhost:99999", "a b:1", "http://x:1", ""] {
        let found = mistakes(&env(&[("FLEETDRAIN_INGEST__LISTEN", bad)]));
        assert!(found.contains("is not HOST:PORT"), "{bad}: {found}");
    }
}

#[test]
fn both_listeners_at_one_address_are_a_mistake() {
    let same = |port| env(&[("FLEETDRAIN_INGEST__LISTEN", port), ("FLEETDRAIN_CONTROL__LISTEN", port)]);
    assert!(mistakes(&same("127.0.0.1:9000")).contains("127.0.0.1:9000 is ingest.listen already"));
    config(&same("127.0.0.1:0"));
}

#[test]
fn the_budget_is_a_share_of_the_memory() {
    let small = config(&memory(1 << 30));
    assert_eq!(small.memory.budget / MIB, 614);
    assert_eq!(small.history.bytes, small.memory.budget / 4);
    assert_eq!(small.ingest.decoded_bytes_max, small.memory.budget / 4);
    assert_eq!(config(&memory(64 << 30)).memory.budget, 1024 * MIB);
    assert_eq!(config(&Sources::default()).memory.budget, 1024 * MIB);
}

#[test]
fn a_decoded_body_never_takes_more_than_a_quarter_of_the_budget() {
    let loaded = load(&file("[memory]\nbudget = \"100MiB\"\n[ingest]\ndecoded_bytes_max = \"64MiB\"\n")).unwrap();
    assert_eq!(loaded.config.ingest.decoded_bytes_max, 25 * MIB);
    let note = loaded.effective().find(|one| one.setting.key == "ingest.decoded_bytes_max").unwrap().note;
    assert_eq!(note.as_deref(), Some("a quarter of memory.budget, instead of 64MiB"));
    assert!(loaded.warnings.iter().any(|warning| warning.starts_with("ingest.decoded_bytes_max is 25MiB")));
}

#[test]
fn a_body_that_the_spool_could_not_keep_is_too_large() {
    let text = "[spool]\ndir = \"/var/spool/fleetdrain\"\nbytes_max = \"10MiB\"\n";
    let loaded = load(&file(text)).unwrap();
    assert_eq!(loaded.config.ingest.decoded_bytes_max, 5 * MIB);
    let note = loaded.effective().find(|one| one.setting.key == "ingest.decoded_bytes_max").unwrap().note;
    assert_eq!(note.as_deref(), Some("half of spool.bytes_max, instead of 256MiB"));
    assert!(!loaded.warnings.iter().any(|warning| warning.contains("decoded")), "{:?}", loaded.warnings);
    // Without a spool it bounds nothing.
    assert!(config(&file("[spool]\nbytes_max = \"10MiB\"\n")).ingest.decoded_bytes_max > 5 * MIB);
}

#[test]
fn history_fits_into_the_budget() {
    let found = mistakes(&file("[memory]\nbudget = \"100MiB\"\n[history]\nbytes = \"200MiB\"\n"));
    assert!(
        found.contains("fleetdrain.toml:4:9: history.bytes: 200MiB is not between 0 and memory.budget 100MiB"),
        "{found}"
    );
}

#[test]
fn the_printed_default_file_sets_nothing_and_names_everything() {
    let text = default_toml();
    let loaded = load(&file(&text)).unwrap_or_else(|mistakes: Mistakes| panic!("{mistakes}"));
    assert!(loaded.effective().all(|one| one.source == Source::Default));
    for setting in &SETTINGS {
        assert!(text.contains(&format!("\n# {} =", setting.name())), "{}", setting.key);
    }
}

#[test]
fn the_printed_default_file_is_right_where_uncommented() {
    let uncommented: String = default_toml()
        .lines()
        .filter(|line| line.contains("= ") || line.starts_with('['))
        .filter(|line| !line.ends_with("= \"\""))
        .map(|line| format!("{}\n", line.trim_start_matches("# ")))
        .collect();
    config(&file(&uncommented));
}

#[test]
fn exit_patterns_are_a_list_of_regular_expressions_with_whatever_is_in_them() {
    let texts = |config: &Config| config.fly.exit_patterns.texts().map(str::to_owned).collect::<Vec<_>>();
    let set = config(&file("[fly]\nexit_patterns = ['^died, (?<code>\\d{1,3})$', 'gone']\nboot_lines = \"system\"\n"));
    assert_eq!(texts(&set), [r"^died, (?<code>\d{1,3})$", "gone"]);
    assert_eq!(set.fly.boot_lines, fleetdrain::config::BootLines::System);
    let set = config(&env(&[("FLEETDRAIN_FLY__EXIT_PATTERNS", "^a, b$\n^c$")]));
    assert_eq!(texts(&set), ["^a, b$", "^c$"]);
    for bad in ["[]", "['(']", "[1]", "7", "''"] {
        let found = mistakes(&file(&format!("[fly]\nexit_patterns = {bad}\n")));
        assert!(found.contains("fly.exit_patterns") && found.contains("regular expressions"), "{bad}: {found}");
    }
    assert!(mistakes(&file("[fly]\nboot_lines = \"stderr\"\n")).contains("stdout or system"));
}

#[test]
fn the_documentation_holds_the_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(&reference()), "put the output of `fleetdrain config --markdown` into docs/configuration.md");
}
