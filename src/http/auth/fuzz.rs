//! Any Authorization headers.

use hyper::header::HeaderValue;

use super::{AUTHORIZATION, Engine as _, HeaderMap, STANDARD, Tokens};
use crate::fuzzing::Choices;

/// A request passes if and only if it has one Authorization header that spells a live token, as a client would spell it: the header
/// that a client would send for the token is what comes out when it is spelt anew.
pub(crate) fn tokens(data: &[u8]) {
    let mut choices = Choices(data);
    let user = choices.take(choices.0.len().min(3));
    let live = ["a-token".to_owned(), text(choices.take(8), "b")];
    let tokens = Tokens::new(&live);
    let second = choices.below(8) == 1;
    let value = choices.0;
    let mut headers = HeaderMap::new();
    let Ok(header) = HeaderValue::from_bytes(value) else { return };
    headers.append(AUTHORIZATION, header.clone());
    let passes = tokens.admit(&headers);
    assert_eq!(passes, live.iter().any(|token| spells(value, token.as_bytes())), "{value:?} {live:?}");
    if second {
        headers.append(AUTHORIZATION, header);
        assert!(!tokens.admit(&headers), "two of {value:?}");
    }
    for token in &live {
        let user = String::from_utf8_lossy(user).replace(':', "");
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{token}")));
        for spelt in [basic, format!("bearer {token} ")] {
            let header = HeaderValue::from_bytes(spelt.as_bytes()).expect("printable");
            assert!(tokens.admit(&HeaderMap::from_iter([(AUTHORIZATION, header)])), "{spelt}");
        }
    }
}

/// Printable text without blanks at its ends, never empty.
fn text(bytes: &[u8], fallback: &str) -> String {
    let text: String = bytes.iter().map(|byte| char::from(byte % 94 + b'!')).collect();
    if text.is_empty() { fallback.to_owned() } else { text }
}

/// Whether `value` is `Bearer TOKEN`, or `Basic` with base64 of `USER:TOKEN`; blanks around the credentials do not count.
fn spells(value: &[u8], token: &[u8]) -> bool {
    let (scheme, credentials) = value.split_at(value.len().min(6));
    let trimmed = credentials.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return credentials.starts_with(b" ") && trimmed == token;
    }
    let (scheme, credentials) = value.split_at(value.len().min(5));
    let trimmed = credentials.trim_ascii();
    let Some(pair) = unbase64(trimmed) else { return false };
    let password = pair.splitn(2, |&byte| byte == b':').nth(1);
    scheme.eq_ignore_ascii_case(b"basic") && credentials.starts_with(b" ") && password == Some(token)
}

/// RFC 4648, 4, bit by bit: padded, and nothing left over that is not zero.
fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bits = Vec::new();
    for byte in &text[..text.len() - padding] {
        let value = ALPHABET.iter().position(|letter| letter == byte)?;
        bits.extend((0..6).rev().map(|bit| value >> bit & 1));
    }
    let (bytes, left) = bits.split_at(bits.len() - bits.len() % 8);
    let is_whole = left.len() == 2 * padding && left.iter().all(|&bit| bit == 0);
    is_whole.then(|| bytes.chunks(8).map(|bits| bits.iter().fold(0, |byte, &bit| byte << 1 | bit as u8)).collect())
}
