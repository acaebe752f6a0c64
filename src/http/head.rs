//! One request head: where it ends, and whether its framing is one that all parties must read alike.
//!
//! Stricter than RFC 9112, on purpose: whatever two parsers could read differently is refused, so that no proxy before the
//! drain can be made to see other requests than the drain does.

use httparse::{EMPTY_HEADER, Request, Status};
use hyper::{StatusCode, Uri};
use memchr::memchr2;

use super::chunked::{ChunkFault, ChunkScan};

/// The longest head, request line and all header lines together. With 10,000 connections that send heads slowly this
/// bounds what they hold to 320 MiB; nginx allows the same 32 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 32 << 10;

/// The longest body that may be announced: hyper keeps the highest values for itself.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// The most header lines; hyper has the same bound.
pub(super) const HEADERS_MAX: usize = 100;

/// What is wrong with a message's framing; the connection ends with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("a line of the head does not end with CR LF")]
    LineEnd,
    #[error("the head does not begin with a request line")]
    NotHttp,
    #[error("the head is not HTTP/1.1: {0}")]
    Malformed(httparse::Error),
    #[error("the head is over {HEAD_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the head has more than {HEADERS_MAX} header lines")]
    TooManyHeaders,
    #[error("{0} Host lines, expected exactly one")]
    Hosts(usize),
    #[error("Host is not HOST or HOST:PORT")]
    BadHost,
    #[error("more than one Transfer-Encoding line")]
    TransferEncodings,
    #[error("Transfer-Encoding is not chunked alone")]
    TransferEncoding,
    #[error("Transfer-Encoding in HTTP/1.0")]
    TransferEncodingInHttp10,
    #[error("Content-Length beside Transfer-Encoding")]
    LengthAndChunked,
    #[error("more than one Content-Length line")]
    ContentLengths,
    #[error("Content-Length is not a number of digits only")]
    ContentLength,
    #[error("Content-Length is over {LENGTH_MAX} bytes")]
    TooLong,
    #[error("the request's target is no path, and no URL: {0}")]
    Target(String),
    #[error("the chunked body is malformed: {0}")]
    Chunk(#[from] ChunkFault),
    #[error("the head was begun and not finished within the header deadline")]
    Late,
}

impl Fault {
    /// The status that answers it.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// How long a message's body is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As many bytes; 0 where there is no body.
    Length(u64),
    Chunked(ChunkScan),
}

/// A head whose framing is beyond doubt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// HTTP/1.0: nothing behind this message is read as a request.
    pub(super) last: bool,
}

/// What a search for a head's end found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// The head is so many bytes long.
    Found(usize),
    More,
    Fault(Fault),
}

/// Looks for the end of the head that `bytes` begins with, from `scanned` on, which it moves forward.
///
/// Every line end is looked at once, however many pieces the head comes in.
pub(super) fn search(bytes: &[u8], scanned: &mut usize) -> Search {
    if *scanned == 0 && bytes.first().is_some_and(|&first| !is_token(first) && first != b'\r') {
        return Search::Fault(Fault::NotHttp);
    }
    while let Some(at) = memchr2(b'\r', b'\n', &bytes[*scanned..]).map(|at| *scanned + at) {
        *scanned = at;
        match (bytes[at], bytes.get(at + 1)) {
            (b'\r', None) => return Search::More,
            (b'\r', Some(b'\n')) if at > 0 => *scanned = at + 2,
            _ => return Search::Fault(Fault::LineEnd),
        }
        if bytes[..at].ends_with(b"\r\n") {
            return Search::Found(at + 2);
        }
    }
    *scanned = bytes.len();
    Search::More
}

/// Reads the framing of a whole head, as [`search`] found it.
pub(super) fn examine(head: &[u8]) -> Result<Head, Fault> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Fault::LineEnd),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyHeaders),
        Err(error) => return Err(Fault::Malformed(error)),
    }
    let http10 = request.version == Some(0);
    check_target(request.path.unwrap_or_default())?;
    check_host(request.headers)?;
    let framing = framing(request.headers)?;
    if http10 && matches!(framing, Framing::Chunked(_)) {
        return Err(Fault::TransferEncodingInHttp10);
    }
    Ok(Head { framing, last: http10 })
}

fn values<'a>(headers: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn check_host(headers: &[httparse::Header<'_>]) -> Result<(), Fault> {
    let mut hosts = values(headers, "host");
    let host = hosts.next().ok_or(Fault::Hosts(0))?;
    match hosts.count() {
        0 if host.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&byte)) => Ok(()),
        0 => Err(Fault::BadHost),
        more => Err(Fault::Hosts(more + 1)),
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> Result<Framing, Fault> {
    let mut encodings = values(headers, "transfer-encoding");
    let mut lengths = values(headers, "content-length");
    match (encodings.next(), lengths.next()) {
        (Some(_), Some(_)) => Err(Fault::LengthAndChunked),
        (Some(_), None) if encodings.next().is_some() => Err(Fault::TransferEncodings),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked(ChunkScan::default())),
        (Some(_), None) => Err(Fault::TransferEncoding),
        (None, Some(_)) if lengths.next().is_some() => Err(Fault::ContentLengths),
        (None, Some(digits)) => length(digits).map(Framing::Length),
        (None, None) => Ok(Framing::Length(0)),
    }
}

/// Digits and nothing else; `str::parse` alone would take a sign.
fn length(digits: &[u8]) -> Result<u64, Fault> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Fault::ContentLength);
    }
    let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.filter(|length| *length <= LENGTH_MAX).ok_or(Fault::TooLong)
}

/// Whether hyper will take the request's target: what it does not, it answers with nothing but a status.
fn check_target(target: &str) -> Result<(), Fault> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%?&=+:,@".contains(&byte);
    if target.starts_with('/') && target.bytes().all(is_plain) {
        return Ok(());
    }
    target.parse::<Uri>().map(drop).map_err(|error| Fault::Target(error.to_string()))
}

/// A byte of an HTTP token (RFC 9110, 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(head: &str) -> Result<Head, Fault> {
        let mut scanned = 0;
        match search(head.as_bytes(), &mut scanned) {
            Search::Found(length) => examine(&head.as_bytes()[..length]),
            Search::More => panic!("no end of head in {head:?}"),
            Search::Fault(fault) => Err(fault),
        }
    }

    #[test]
    fn a_head_is_found_whole_however_it_is_cut() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..head.len() {
            let mut scanned = 0;
            let first = search(&head[..cut], &mut scanned);
            if first == Search::More {
                assert!(cut < head.len() - 3, "cut at {cut}");
                assert_eq!(search(head, &mut scanned), Search::Found(head.len() - 3), "cut at {cut}");
            } else {
                assert_eq!((first, cut >= head.len() - 3), (Search::Found(head.len() - 3), true), "cut at {cut}");
            }
        }
    }

    #[test]
    fn lengths_are_digits_and_nothing_else() {
        for (digits, expected) in [
            ("0", Ok(0)),
            ("0010", Ok(10)),
            ("9223372036854775807", Ok(LENGTH_MAX)),
            ("9223372036854775808", Err(Fault::TooLong)),
            ("18446744073709551615", Err(Fault::TooLong)),
            ("99999999999999999999999", Err(Fault::TooLong)),
            ("+5", Err(Fault::ContentLength)),
            ("-5", Err(Fault::ContentLength)),
            ("5 5", Err(Fault::ContentLength)),
            ("5,5", Err(Fault::ContentLength)),
            ("0x5", Err(Fault::ContentLength)),
            ("", Err(Fault::ContentLength)),
        ] {
            assert_eq!(length(digits.as_bytes()), expected, "{digits}");
        }
    }

    #[test]
    fn http_1_0_is_the_last_message_and_never_chunked() {
        assert!(verdict("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\n\r\n").unwrap().last);
        assert!(!verdict("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n").unwrap().last);
        let chunked = verdict("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(chunked, Err(Fault::TransferEncodingInHttp10));
    }

    #[test]
    fn a_hundred_header_lines_pass_and_one_more_does_not() {
        let head = |more: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(more));
        assert!(verdict(&head(HEADERS_MAX - 1)).is_ok());
        assert_eq!(verdict(&head(HEADERS_MAX)), Err(Fault::TooManyHeaders));
    }

    #[test]
    fn what_is_not_http_is_known_by_its_first_byte() {
        assert_eq!(search(b"\x16\x03\x01", &mut 0), Search::Fault(Fault::NotHttp));
        assert_eq!(search(b" GET", &mut 0), Search::Fault(Fault::NotHttp));
    }
}
