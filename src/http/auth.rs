//! Tokens: who may write, who may read.

use std::sync::{Arc, PoisonError, RwLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::{AUTHORIZATION, HeaderMap};
use subtle::{Choice, ConstantTimeEq};

/// All live tokens of one listener; may be swapped while requests are under way.
pub(crate) struct Tokens(RwLock<Arc<[String]>>);

impl Tokens {
    /// Empty: none is asked for.
    pub(crate) fn new(tokens: &[String]) -> Self {
        Self(RwLock::new(tokens.into()))
    }

    /// Replaces all of them; takes effect with the next request.
    pub(crate) fn replace(&self, tokens: &[String]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tokens.into();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live().is_empty()
    }

    fn live(&self) -> Arc<[String]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a request with these headers may pass: `Bearer TOKEN`, or `Basic` with a token as the password.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        let live = self.live();
        live.is_empty() || presented(headers).is_some_and(|token| is_one_of(&token, &live))
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.live().len())
    }
}

/// Compares with every token, and each in a time that depends on its length only.
fn is_one_of(token: &[u8], live: &[String]) -> bool {
    live.iter().fold(Choice::from(0), |found, one| found | one.as_bytes().ct_eq(token)).into()
}

/// The token that a request presents; none where it presents two.
fn presented(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let value = value.as_bytes();
    let space = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn any_live_token_passes_as_bearer_or_as_basic_password() {
        let tokens = Tokens::new(&["one".into(), "two:2".into()]);
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (value, passes) in [
            ("Bearer one", true),
            ("bearer   two:2", true),
            ("BEARER one ", true),
            (&basic("anyone:one"), true),
            (&basic(":two:2"), true),
            ("Bearer", false),
            ("Bearer ", false),
            ("Bearer on", false),
            ("Bearer onee", false),
            ("one", false),
            (&basic("one"), false),
            (&basic("one:"), false),
            ("Basic ???", false),
            ("Digest one", false),
        ] {
            assert_eq!(tokens.admit(&headers(&[value])), passes, "{value}");
        }
        assert!(!tokens.admit(&HeaderMap::new()));
        assert!(!tokens.admit(&headers(&["Bearer one", "Bearer one"])));
    }

    #[test]
    fn replaced_tokens_take_effect_at_once() {
        let tokens = Tokens::new(&[]);
        assert!(tokens.admit(&HeaderMap::new()));
        tokens.replace(&["new".into()]);
        assert!(!tokens.admit(&HeaderMap::new()));
        assert!(tokens.admit(&headers(&["Bearer new"])));
    }
}
