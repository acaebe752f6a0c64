//! Tokens, and the keys of signed links: who may write, who may read.

use std::sync::{Arc, PoisonError, RwLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::{AUTHORIZATION, HeaderMap};
use subtle::{Choice, ConstantTimeEq};

use crate::grant::SigningKeys;

/// What opens one listener; may be swapped while requests are under way.
pub(crate) struct Tokens(RwLock<Arc<Live>>);

/// All that is live at one moment.
pub(crate) struct Live {
    tokens: Box<[String]>,
    /// What vouches for signed links.
    pub(crate) keys: SigningKeys,
}

impl Live {
    /// Whether nothing is asked for: without a token a signing key alone locks the door as well.
    pub(crate) fn is_open(&self) -> bool {
        self.tokens.is_empty() && self.keys.is_empty()
    }

    /// Compares with every token, and each in a time that depends on its length only.
    pub(crate) fn has(&self, token: &[u8]) -> bool {
        self.tokens.iter().fold(Choice::from(0), |found, one| found | one.as_bytes().ct_eq(token)).into()
    }
}

impl Tokens {
    /// Empty: none is asked for.
    pub(crate) fn new(tokens: &[String]) -> Self {
        Self::with_keys(tokens, SigningKeys::default())
    }

    pub(crate) fn with_keys(tokens: &[String], keys: SigningKeys) -> Self {
        Self(RwLock::new(Arc::new(Live { tokens: tokens.into(), keys })))
    }

    /// Replaces all of them; takes effect with the next request. In one go: between tokens and keys the door would stand open.
    pub(crate) fn replace(&self, tokens: &[String], keys: SigningKeys) {
        let live = Arc::new(Live { tokens: tokens.into(), keys });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// What holds for one request from its begin to its end.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a request with these headers may pass: `Bearer TOKEN`, or `Basic` with a token as the password.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        let live = self.live();
        live.is_open()
            || presented(headers).is_some_and(|presented| match presented {
                Presented::Bearer(token) | Presented::Password(token) => live.has(&token),
            })
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let live = self.live();
        write!(f, "Tokens({}, {:?})", live.tokens.len(), live.keys)
    }
}

/// What a request presents in its head.
pub(crate) enum Presented {
    Bearer(Vec<u8>),
    /// Of `Basic`, whatever the user.
    Password(Vec<u8>),
}

/// What a request presents; nothing where it presents two.
pub(crate) fn presented(headers: &HeaderMap) -> Option<Presented> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let value = value.as_bytes();
    let space = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(Presented::Bearer(rest.to_vec()));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(Presented::Password(pair[colon + 1..].to_vec()))
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
        tokens.replace(&["new".into()], SigningKeys::default());
        assert!(!tokens.admit(&HeaderMap::new()));
        assert!(tokens.admit(&headers(&["Bearer new"])));
    }
}
