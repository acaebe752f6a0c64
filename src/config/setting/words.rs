//! Settings that are words or lists of them: what each takes.

use std::str::FromStr;

use super::super::{BootLines, Config, Full, LogFormat, SpoolFull};
use crate::batch::Streams;

/// What `log.level` takes.
pub(super) const LOG_LEVELS: &str = "error, warn, info, debug, trace or off, or such as info,fleetdrain::http=debug";

pub(super) fn read_full(config: &mut Config, text: &str) -> bool {
    let full = Full::ALL.into_iter().find(|full| full.as_str() == text);
    full.inspect(|&full| config.queue.full = full).is_some()
}

pub(super) fn read_spool_full(config: &mut Config, text: &str) -> bool {
    let full = SpoolFull::ALL.into_iter().find(|full| full.as_str() == text);
    full.inspect(|&full| config.spool.full = full).is_some()
}

/// Origins exactly as browsers send them, or the page would be refused and nobody would know why.
pub(super) fn read_origins(config: &mut Config, text: &str) -> bool {
    let origins: Vec<String> = match text {
        "none" | "" => Vec::new(),
        list => list.split(',').map(|origin| origin.trim().to_owned()).collect(),
    };
    let known = origins.iter().all(|origin| is_origin(origin));
    if known {
        config.control.cors_origins = origins;
    }
    known
}

/// Whether `text` is a scheme, a host and perhaps a port, as browsers write them: in lower case, without a default port, without
/// anything behind it (RFC 6454, 6.2).
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_port =
        |port: &str| port.parse().is_ok_and(|number: u16| number != default_port && number.to_string() == port);
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.to_string() == address),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    is_host && port.is_none_or(is_port)
}

pub(super) fn shown(name: Option<&String>) -> String {
    name.cloned().unwrap_or_else(|| "none".to_owned())
}

/// A host and a port; who we are does not belong here.
pub(super) fn read_nats_url(config: &mut Config, text: &str) -> bool {
    let rest = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
    let host_and_port = rest.and_then(|rest| rest.rsplit_once(':'));
    let known = host_and_port.is_some_and(|(host, port)| {
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let is_bracketed = !host.contains(':') || host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && is_bracketed && host.bytes().all(is_host) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if known {
        text.clone_into(&mut config.fly.url);
    }
    known
}

/// What a token of a subject, a user or a queue group may be: nothing that NATS would take for something else.
fn is_nats_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b".*>".contains(&byte))
}

pub(super) fn read_org(config: &mut Config, text: &str) -> bool {
    config.fly.org = (text != "none").then(|| text.to_owned());
    is_nats_name(text)
}

pub(super) fn read_queue_group(config: &mut Config, text: &str) -> bool {
    config.fly.queue_group = (text != "none").then(|| text.to_owned());
    is_nats_name(text)
}

/// A message that two of them match would come twice.
pub(super) fn read_subjects(config: &mut Config, text: &str) -> bool {
    let subjects: Vec<String> = text.split(',').map(|subject| subject.trim().to_owned()).collect();
    let known = subjects.iter().all(|subject| is_subject(subject))
        && subjects.iter().enumerate().all(|(at, subject)| !subjects[..at].iter().any(|other| overlap(subject, other)));
    if known {
        config.fly.subjects = subjects;
    }
    known
}

fn is_subject(subject: &str) -> bool {
    let (rest, last) = subject.rsplit_once('.').unwrap_or(("*", subject));
    let is_token = |token: &str| token == "*" || is_nats_name(token);
    rest.split('.').all(is_token) && (last == ">" || is_token(last))
}

/// Whether some message has a subject that both match.
fn overlap(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

pub(super) fn read_streams(config: &mut Config, text: &str) -> bool {
    let streams = Streams::from_str(text).ok();
    streams.inspect(|&streams| config.queue.streams = streams).is_some()
}

pub(super) fn read_boot_lines(config: &mut Config, text: &str) -> bool {
    let lines = BootLines::ALL.into_iter().find(|lines| lines.as_str() == text);
    lines.inspect(|&lines| config.fly.boot_lines = lines).is_some()
}

pub(super) fn read_log_format(config: &mut Config, text: &str) -> bool {
    let format = LogFormat::ALL.into_iter().find(|format| format.as_str() == text);
    format.inspect(|&format| config.log.format = format).is_some()
}

pub(super) fn read_log_level(config: &mut Config, text: &str) -> bool {
    let is_level = |text: &str| ["error", "warn", "info", "debug", "trace", "off"].contains(&text);
    let is_module = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte))
    };
    // A module alone is no level: a misspelt one would be taken for it.
    let is_directive = |text: &str| match text.split_once('=') {
        Some((module, level)) => is_module(module) && is_level(level),
        None => is_level(text),
    };
    let known = text.split(',').all(is_directive);
    if known {
        text.clone_into(&mut config.log.level);
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for good in [
            "https://page.example",
            "http://localhost:3000",
            "https://page.example:8443",
            "http://10.0.0.1",
            "http://[::1]:3000",
            "http://page.example:443",
            "https://under_score.example",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "*",
            "null",
            "",
            "page.example",
            "https://",
            "https://page.example/",
            "https://page.example/path",
            "https://Page.example",
            "HTTPS://page.example",
            "https://page.example:443",
            "http://page.example:80",
            "https://page.example:0443",
            "https://page.example:",
            "https://page.example:65536",
            "https://*.example",
            "https://user@page.example",
            "https://page.example https://other.example",
            "ftp://page.example",
            "http://[::1",
            "http://[0:0::1]",
            "https://pagé.example",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
