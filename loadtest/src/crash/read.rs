//! Reading a stream of the control listener, line by line.

use crate::client::{Broken, Connection, Target};
use http_body_util::{BodyExt, Full};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

/// Keep-alives come every 15 s: a stream that is silent for longer than two of them is broken.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// How long an answer may take to begin.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// What a line of NDJSON says, the end apart.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Entry { id: Cow<'a, str>, machine: Cow<'a, str>, message: Cow<'a, str> },
    Skipped(Option<u64>),
}

/// Every key of an entry and of an event that matters here.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    machine_id: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    event: Cow<'a, str>,
    #[serde(default)]
    lines: Option<u64>,
    #[serde(borrow, default)]
    reason: Cow<'a, str>,
}

/// Reads `path` to its end, whose reason is the answer; an error if it breaks off before.
pub(super) async fn read(target: &Target, path: &str, mut take: impl FnMut(&Line<'_>)) -> Result<String, Broken> {
    let mut connection = Connection::open(target, None).await?;
    let request = target.request(Method::GET, path).body(Full::default())?;
    let answer = tokio::time::timeout(ANSWER_WAIT, connection.send(request)).await??;
    match answer.status() {
        StatusCode::OK => {}
        status => return Err(format!("GET {path} was answered {status}").into()),
    }
    let mut body = answer.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = tokio::time::timeout(SILENCE_MAX, body.frame()).await? {
        let Ok(data) = frame?.into_data() else { continue };
        let mut data = &data[..];
        while let Some(end) = memchr::memchr(b'\n', data) {
            let (line, behind) = (&data[..end], &data[end + 1..]);
            data = behind;
            let ended = if rest.is_empty() {
                one(line, &mut take)?
            } else {
                rest.extend_from_slice(line);
                one(&std::mem::take(&mut rest), &mut take)?
            };
            if let Some(reason) = ended {
                return Ok(reason);
            }
        }
        rest.extend_from_slice(data);
    }
    Err("the stream stopped without saying `end`".into())
}

/// The reason if the line is the end.
fn one(line: &[u8], take: &mut impl FnMut(&Line<'_>)) -> Result<Option<String>, Broken> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let raw: Raw<'_> = serde_json::from_slice(line)
        .map_err(|error| format!("{error} in the line {:?}", String::from_utf8_lossy(&line[..line.len().min(300)])))?;
    match &*raw.event {
        "end" => return Ok(Some(raw.reason.into_owned())),
        "skipped" => take(&Line::Skipped(raw.lines)),
        _ => take(&Line::Entry { id: raw.id, machine: raw.machine_id, message: raw.message }),
    }
    Ok(None)
}
