//! Signed links: what their tokens let a holder read, and the keys that vouch for it. Pure: neither clock nor I/O.
//!
//! A token is a JWT (RFC 7519) signed by HMAC SHA-256, and by nothing else: which algorithm is used is decided here, never by the
//! token. That is so little that a crate for all of JOSE would bring more to attack than it takes off our hands; the base64 and
//! the HMAC with its comparison in constant time are not ours.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{batch::EntryView, collector::MachineFacts};

/// A link may be good for so long at most: it cannot be called back but by taking away its key.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

/// A shorter key than what HMAC SHA-256 puts out is easier to guess than its signatures (RFC 7518, 3.2).
pub(crate) const KEY_BYTES_MIN: usize = 32;

/// The machines or the apps that a link is for; sorted, neither empty nor with an empty name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Machines(Vec<String>),
    Apps(Vec<String>),
}

/// What a link lets its holder read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Seconds since 1970; from then on it is worth nothing.
    pub(crate) expires: u64,
    scope: Scope,
    /// Sorted; `None`: all.
    streams: Option<Vec<String>>,
}

/// Names that no grant can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadScope {
    #[error("it must be for machines or for apps, at least one, and not for both")]
    Neither,
    #[error("an empty name fits nothing")]
    EmptyName,
    #[error("a list of no streams shows nothing")]
    NoStreams,
}

impl Grant {
    pub(crate) fn new(
        expires: u64,
        machines: Vec<String>,
        apps: Vec<String>,
        streams: Option<Vec<String>>,
    ) -> Result<Self, BadScope> {
        let scope = match (machines.is_empty(), apps.is_empty()) {
            (false, true) => Scope::Machines(sorted(machines)?),
            (true, false) => Scope::Apps(sorted(apps)?),
            _ => return Err(BadScope::Neither),
        };
        let streams = streams.map(sorted).transpose()?;
        if streams.as_ref().is_some_and(Vec::is_empty) {
            return Err(BadScope::NoStreams);
        }
        Ok(Self { expires, scope, streams })
    }

    /// How long it is still good.
    pub(crate) fn left_at(&self, now: Timestamp) -> Duration {
        let expires = i64::try_from(self.expires).ok().and_then(|expires| Timestamp::from_second(expires).ok());
        let left = expires.map(|expires| expires.duration_since(now));
        left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default()
    }

    /// Whether a line may be shown. Of a line that names no app nobody knows that it is the app's.
    pub(crate) fn shows(&self, entry: &EntryView<'_>) -> bool {
        let in_scope = match &self.scope {
            Scope::Machines(machines) => contains(machines, entry.machine_id()),
            Scope::Apps(apps) => contains(apps, entry.app_name()),
        };
        in_scope && self.streams.as_ref().is_none_or(|streams| contains(streams, entry.stream()))
    }

    /// Whether a machine may be listed and told of.
    pub(crate) fn tells_of(&self, facts: &MachineFacts) -> bool {
        match &self.scope {
            Scope::Machines(machines) => contains(machines, &facts.machine_id),
            Scope::Apps(apps) => contains(apps, &facts.app_name),
        }
    }

    /// Whether the logs of a machine may be asked for; `facts` of one that was seen. Of one not yet seen it may turn out that no
    /// line may be shown: [`Grant::shows`] decides that line by line.
    pub(crate) fn may_ask_for(&self, machine_id: &str, facts: Option<&MachineFacts>) -> bool {
        match &self.scope {
            Scope::Machines(machines) => contains(machines, machine_id),
            Scope::Apps(_) => facts.is_none_or(|facts| self.tells_of(facts)),
        }
    }
}

fn sorted(mut names: Vec<String>) -> Result<Vec<String>, BadScope> {
    names.sort_unstable();
    if names.first().is_some_and(String::is_empty) { Err(BadScope::EmptyName) } else { Ok(names) }
}

fn contains(sorted: &[String], name: &str) -> bool {
    sorted.binary_search_by(|one| one.as_str().cmp(name)).is_ok()
}

/// Why a token is worth nothing. Says nothing of what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadGrant {
    #[error("no key has signed it")]
    Signature,
    #[error("it is not signed by HS256")]
    Algorithm,
    #[error("its claims are not exp, machines or apps, and streams")]
    Claims,
    #[error("it is not valid yet")]
    Early,
    #[error("it has expired")]
    Expired,
    #[error("it is good for more than 7 days")]
    TooLong,
}

/// The keys of one listener; the first signs, any of them vouches.
#[derive(Clone, Default)]
pub struct SigningKeys(Vec<hmac::Key>);

/// A key that is too easy to guess; it is not repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signing key on line {line} has {bytes} bytes, at least {KEY_BYTES_MIN} are needed")]
#[non_exhaustive]
pub struct ShortKey {
    /// Counted from 1.
    pub line: usize,
    /// How long it is.
    pub bytes: usize,
}

impl SigningKeys {
    /// Reads keys, one a line of at least 32 bytes; blank lines do not count.
    ///
    /// # Errors
    ///
    /// The first key that is shorter.
    pub fn parse(text: &str) -> Result<Self, ShortKey> {
        let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
        let key = |(line, key): (usize, &str)| match key.len() {
            KEY_BYTES_MIN.. => Ok(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())),
            bytes => Err(ShortKey { line, bytes }),
        };
        lines.map(key).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A token for `grant`; `None` without a key.
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn sign(&self, grant: &Grant) -> Option<String> {
        let key = self.0.first()?;
        let (machines, apps) = match &grant.scope {
            Scope::Machines(machines) => (Some(machines.clone()), None),
            Scope::Apps(apps) => (None, Some(apps.clone())),
        };
        let claims = Claims { exp: grant.expires, machines, apps, streams: grant.streams.clone(), ..Claims::default() };
        let claims = serde_json::to_vec(&claims).expect("numbers and lists of strings are JSON");
        let message = [r#"{"alg":"HS256","typ":"JWT"}"#.as_bytes(), &claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = message.join(".");
        let signature = hmac::sign(key, message.as_bytes());
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token grants at `now`, in seconds since 1970.
    ///
    /// Nothing in the token is read before a key has vouched for it.
    pub(crate) fn verify(&self, token: &[u8], now: u64) -> Result<Grant, BadGrant> {
        let token = std::str::from_utf8(token).map_err(|_| BadGrant::Signature)?;
        let (message, signature) = token.rsplit_once('.').ok_or(BadGrant::Signature)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadGrant::Signature)?;
        if !self.0.iter().any(|key| hmac::verify(key, message.as_bytes(), &signature).is_ok()) {
            return Err(BadGrant::Signature);
        }
        let (header, claims) = message.split_once('.').ok_or(BadGrant::Algorithm)?;
        let header: Header = decode(header).ok_or(BadGrant::Algorithm)?;
        if header.alg != "HS256" || header.crit.is_some() {
            return Err(BadGrant::Algorithm);
        }
        decode::<Claims>(claims).ok_or(BadGrant::Claims)?.grant(now)
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKeys({})", self.len())
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// What must be understood and is not (RFC 7515, 4.1.11).
    crit: Option<IgnoredAny>,
}

/// A claim that is not known might be a limit: such a token is refused. Those that limit nothing are let be.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    machines: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apps: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    streams: Option<Vec<String>>,
    #[serde(skip_serializing)]
    nbf: Option<u64>,
    #[serde(skip_serializing, rename = "iat")]
    _iat: Option<IgnoredAny>,
    #[serde(skip_serializing, rename = "iss")]
    _iss: Option<IgnoredAny>,
    #[serde(skip_serializing, rename = "sub")]
    _sub: Option<IgnoredAny>,
    #[serde(skip_serializing, rename = "jti")]
    _jti: Option<IgnoredAny>,
}

impl Claims {
    fn grant(self, now: u64) -> Result<Grant, BadGrant> {
        if self.exp <= now {
            return Err(BadGrant::Expired);
        }
        if self.exp - now > TTL_MAX.as_secs() {
            return Err(BadGrant::TooLong);
        }
        if self.nbf.is_some_and(|from| from > now) {
            return Err(BadGrant::Early);
        }
        let (machines, apps) = (self.machines.unwrap_or_default(), self.apps.unwrap_or_default());
        Grant::new(self.exp, machines, apps, self.streams).map_err(|_| BadGrant::Claims)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn keys(lines: &[&str]) -> SigningKeys {
        SigningKeys::parse(&lines.join("\n")).unwrap()
    }

    const OLD: &str = "an old key of 32 bytes, or more.";
    const NEW: &str = "a new key of some more than 32 bytes";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn grant(expires: u64) -> Grant {
        Grant::new(expires, names(&["m2", "m1"]), Vec::new(), Some(names(&["stdout"]))).unwrap()
    }

    /// A token of any header and claims, signed by the key.
    fn token(key: &str, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn verdict(token: &str) -> Result<Grant, BadGrant> {
        keys(&[OLD]).verify(token.as_bytes(), NOW)
    }

    #[test]
    fn the_first_key_signs_and_any_vouches() {
        let signed = keys(&[NEW, OLD]).sign(&grant(NOW + 5)).unwrap();
        assert_eq!(keys(&[NEW]).verify(signed.as_bytes(), NOW), Ok(grant(NOW + 5)));
        assert_eq!(keys(&[OLD, NEW]).verify(signed.as_bytes(), NOW), Ok(grant(NOW + 5)));
        assert_eq!(keys(&[OLD]).verify(signed.as_bytes(), NOW), Err(BadGrant::Signature));
        assert_eq!(SigningKeys::default().verify(signed.as_bytes(), NOW), Err(BadGrant::Signature));
        assert_eq!(SigningKeys::default().sign(&grant(NOW)), None);
    }

    #[test]
    fn it_is_the_hs256_of_others() {
        // Made with the Python standard library's hmac.
        let of_others = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
                         eyJleHAiOjE4MDAwMDAwMDUsIm1hY2hpbmVzIjpbIm0xIiwibTIiXSwic3RyZWFtcyI6WyJzdGRvdXQiXX0.ivG4DKursOrybUDoTkktgGWtNfx-Jmqo30CRrB54eU4";
        assert_eq!(keys(&[OLD]).sign(&grant(NOW + 5)).unwrap(), of_others);
    }

    #[test]
    fn a_link_is_good_before_its_end_and_no_longer_than_a_week() {
        let week = TTL_MAX.as_secs();
        for (expires, expected) in [
            (NOW + 1, Ok(())),
            (NOW + week, Ok(())),
            (NOW + week + 1, Err(BadGrant::TooLong)),
            (u64::MAX, Err(BadGrant::TooLong)),
            (NOW, Err(BadGrant::Expired)),
            (0, Err(BadGrant::Expired)),
        ] {
            let signed = keys(&[OLD]).sign(&grant(expires)).unwrap();
            assert_eq!(verdict(&signed).map(|_| ()), expected, "{expires}");
        }
    }

    #[test]
    fn the_algorithm_is_not_the_tokens_to_choose() {
        let claims = format!(r#"{{"exp":{},"apps":["a"]}}"#, NOW + 5);
        assert!(verdict(&token(OLD, r#"{"alg":"HS256"}"#, &claims)).is_ok());
        assert!(verdict(&token(OLD, r#"{"typ":"at+jwt","kid":"1","alg":"HS256"}"#, &claims)).is_ok());
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS384"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":"HS256","alg":"none"}"#,
            r#"{"alg":"HS256","crit":["exp"]}"#,
            r#"{"typ":"JWT"}"#,
            "[]",
            "",
        ] {
            assert_eq!(verdict(&token(OLD, header, &claims)), Err(BadGrant::Algorithm), "{header}");
        }
        let good = token(OLD, r#"{"alg":"HS256"}"#, &claims);
        let (message, _) = good.rsplit_once('.').unwrap();
        let unsigned = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(&claims));
        for unsigned in [format!("{unsigned}."), unsigned, format!("{message}."), message.to_owned(), String::new()] {
            assert_eq!(verdict(&unsigned), Err(BadGrant::Signature), "{unsigned}");
        }
    }

    #[test]
    fn claims_that_are_not_understood_grant_nothing() {
        let with = |claims: &str| {
            let claims = format!(r#"{{"exp":{},{claims}}}"#, NOW + 5);
            verdict(&token(OLD, r#"{"alg":"HS256"}"#, &claims)).map(|_| ())
        };
        for good in [
            r#""machines":["m"]"#,
            r#""apps":["a"],"streams":["stderr","system"]"#,
            r#""apps":["a"],"machines":[]"#,
            r#""apps":["a"],"iat":1.5,"iss":"x","sub":"y","jti":"z","nbf":1800000000"#,
        ] {
            assert_eq!(with(good), Ok(()), "{good}");
        }
        for bad in [
            r#""machines":[]"#,
            r#""streams":["stdout"]"#,
            r#""machines":["m"],"apps":["a"]"#,
            r#""machines":"m""#,
            r#""machines":["m",""]"#,
            r#""apps":[""]"#,
            r#""apps":["a"],"streams":[]"#,
            r#""apps":["a"],"streams":[""]"#,
            r#""apps":["a"],"streams":"stdout""#,
            r#""apps":["a"],"regions":["lax"]"#,
            r#""apps":["a"],"aud":"x""#,
            r#""apps":["a"],"exp":1900000000"#,
            r#""apps":["a"],"apps":["b"]"#,
        ] {
            assert_eq!(with(bad), Err(BadGrant::Claims), "{bad}");
        }
        assert_eq!(with(r#""apps":["a"],"nbf":1800000001"#), Err(BadGrant::Early));
        for exp in ["\"1800000005\"", "1800000005.5", "-1", "null"] {
            let claims = format!(r#"{{"exp":{exp},"apps":["a"]}}"#);
            assert_eq!(verdict(&token(OLD, r#"{"alg":"HS256"}"#, &claims)), Err(BadGrant::Claims), "{exp}");
        }
        assert_eq!(verdict(&token(OLD, r#"{"alg":"HS256"}"#, r#"{"apps":["a"]}"#)), Err(BadGrant::Claims));
    }

    #[test]
    fn keys_are_lines_of_at_least_32_bytes() {
        assert_eq!(keys(&["", OLD, "  ", &format!("  {NEW}\r"), ""]).len(), 2);
        assert_eq!(SigningKeys::parse(&format!("{OLD}\n\nshort")).unwrap_err(), ShortKey { line: 3, bytes: 5 });
        assert!(SigningKeys::parse(&OLD[1..]).is_err());
        assert!(SigningKeys::parse("").unwrap().is_empty());
        assert!(!format!("{:?}", keys(&[OLD])).contains("old"));
    }

    proptest! {
        #[test]
        fn a_token_with_anything_changed_grants_nothing(at in 0usize..200, byte: u8) {
            let signed = keys(&[OLD]).sign(&grant(NOW + 5)).unwrap();
            let mut changed = signed.clone().into_bytes();
            let at = at % changed.len();
            prop_assume!(changed[at] != byte);
            changed[at] = byte;
            prop_assert!(keys(&[OLD]).verify(&changed, NOW).is_err());
        }

        #[test]
        fn no_token_panics(token in proptest::collection::vec(any::<u8>(), 0..100), text in "[A-Za-z0-9_.-]{0,100}") {
            prop_assert!(keys(&[OLD]).verify(&token, NOW).is_err());
            prop_assert!(keys(&[OLD]).verify(text.as_bytes(), NOW).is_err());
        }
    }
}
