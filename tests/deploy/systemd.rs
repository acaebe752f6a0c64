//! The unit, and what the drain tells the service manager.

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::Command,
    time::Duration,
};

use super::{passes, read, seconds, source};
use crate::support::drain::{Drain, run};

/// The values of a key of the unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_units_command_and_settings_are_the_drains() {
    let unit = read("deploy/systemd/fleetdrain.service");
    let command = values(&unit, "ExecStart")[0];
    let flags = command.split_once(" serve ").unwrap().1;
    let config = source("deploy/systemd/fleetdrain.toml");
    let flags = flags.replace("/etc/fleetdrain/fleetdrain.toml", config.to_str().unwrap());
    let args: Vec<_> = ["validate"].into_iter().chain(flags.split(' ')).collect();
    let env: Vec<_> = values(&unit, "Environment").into_iter().map(|pair| pair.split_once('=').unwrap()).collect();
    let (exit, out, err) = run(&args, &env);
    assert_eq!(exit, 0, "{out}{err}");
    assert!(out.contains("/var/lib/fleetdrain"), "{out}");
    let deadline = env.iter().find(|(name, _)| *name == "FLEETDRAIN_SHUTDOWN__DEADLINE").unwrap().1;
    assert!(seconds(values(&unit, "TimeoutStopSec")[0]) > seconds(deadline), "it is killed before it may end");
}

#[test]
#[ignore = "needs systemd-analyze (Debian package systemd)"]
fn systemd_takes_the_unit_and_finds_little_exposed() {
    let unit = read("deploy/systemd/fleetdrain.service")
        .replace("/usr/local/bin/fleetdrain", env!("CARGO_BIN_EXE_fleetdrain"));
    let dir = std::env::temp_dir().join(format!("fleetdrain-unit-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("fleetdrain.service");
    std::fs::write(&file, unit).unwrap();
    let said = passes(Command::new("systemd-analyze").arg("verify").arg(&file));
    assert_eq!(said.trim(), "");
    // Tenths: below 2.0 of 10.
    passes(Command::new("systemd-analyze").args(["security", "--offline=yes", "--threshold=20"]).arg(&file));
    std::fs::remove_dir_all(dir).unwrap();
}

fn told(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let length = manager.recv(&mut buffer).expect("the drain tells the manager");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// What a start, a reload and a stop tell at `socket`.
fn is_told_everything(manager: &UnixDatagram, socket: &str) {
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let drain = Drain::start(&[("NOTIFY_SOCKET", socket)]);
    assert_eq!(told(manager), "READY=1");
    drain.signal("-HUP");
    assert!(told(manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(manager), "READY=1");
    drain.signal("-TERM");
    assert_eq!(told(manager), "STOPPING=1");
    assert_eq!(drain.wait().0, 0);
}

#[test]
fn the_manager_is_told_of_start_reload_and_stop() {
    let path = std::env::temp_dir().join(format!("fleetdrain-notify-{}", std::process::id()));
    let manager = UnixDatagram::bind(&path).unwrap();
    is_told_everything(&manager, path.to_str().unwrap());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn an_abstract_socket_is_told_the_same() {
    let name = format!("fleetdrain-notify-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    is_told_everything(&manager, &format!("@{name}"));
}

#[test]
fn a_watchdog_hears_of_the_drain_again_and_again() {
    let path = std::env::temp_dir().join(format!("fleetdrain-watchdog-{}", std::process::id()));
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _drain = Drain::start(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "20000")]);
    let heard: Vec<_> = (0..4).map(|_| told(&manager)).collect();
    assert_eq!(heard.iter().filter(|what| *what == "WATCHDOG=1").count(), 3, "{heard:?}");
    std::fs::remove_file(path).unwrap();
}
