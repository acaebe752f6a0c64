//! Who may read: the token, or without one only what cannot be a web page in a developer's browser.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hyper::{
    HeaderMap,
    header::{HOST, HeaderName, ORIGIN},
    http::request::Parts,
};

use crate::http::auth::Tokens;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The rules of one control listener.
#[derive(Debug)]
pub(crate) struct Access {
    tokens: Arc<Tokens>,
    bound: SocketAddr,
}

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("a token is needed: send it as Authorization: Bearer TOKEN")]
    Token,
    #[error("without a token, Host must be a loopback name or the address that is listened on")]
    Host,
    #[error("without a token, web pages of other origins may not read")]
    Origin,
}

impl Access {
    /// Rules for a listener at `bound`.
    pub(crate) fn new(tokens: Arc<Tokens>, bound: SocketAddr) -> Self {
        Self { tokens, bound }
    }

    /// Whether a request may pass. `open` routes (health, metrics) need neither token nor name: scrapers come by any name.
    ///
    /// Order matters to nobody, but a foreign page is turned away even from what is open.
    pub(super) fn check(&self, head: &Parts, open: bool) -> Result<(), Denied> {
        if !self.tokens.is_empty() {
            return if open || self.tokens.admit(&head.headers) { Ok(()) } else { Err(Denied::Token) };
        }
        let host = Authority::of_request(head);
        if is_foreign(&head.headers, host) {
            return Err(Denied::Origin);
        }
        if open || host.is_some_and(|host| self.is_own(host)) { Ok(()) } else { Err(Denied::Host) }
    }

    /// A name that no web page can make its own by DNS: loopback, or the very address that is listened on.
    fn is_own(&self, host: Authority<'_>) -> bool {
        host.is_loopback()
            || host.ip().is_some_and(|ip| {
                let bound = self.bound.ip().to_canonical();
                // Listening everywhere, every address that got the request here is listened on.
                bound.is_unspecified() || bound == ip
            })
    }
}

/// Whether a web page of another origin has sent this.
fn is_foreign(headers: &HeaderMap, host: Option<Authority<'_>>) -> bool {
    let is_own = |origin: &[u8]| {
        let origin = std::str::from_utf8(origin).ok().and_then(Authority::of_origin);
        origin.zip(host).is_some_and(|(origin, host)| origin.is_same_server(host))
    };
    headers.get_all(SEC_FETCH_SITE).iter().any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site"))
        || !headers.get_all(ORIGIN).iter().all(|origin| is_own(origin.as_bytes()))
}

/// A host name or address, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Authority<'a> {
    host: &'a str,
    port: u16,
}

impl<'a> Authority<'a> {
    /// The one host that the request names; `None` where it names none, or two.
    fn of_request(head: &'a Parts) -> Option<Self> {
        let mut hosts = head.headers.get_all(HOST).iter();
        let target = head.uri.authority().map(hyper::http::uri::Authority::as_str);
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => Some(host.to_str().ok()?),
            (None, _) => None,
            (Some(_), Some(_)) => return None,
        };
        match (host, target) {
            (Some(host), Some(target)) if !host.eq_ignore_ascii_case(target) => None,
            (host, target) => Self::parse(host.or(target)?, 80),
        }
    }

    fn of_origin(origin: &'a str) -> Option<Self> {
        match origin.split_once("://")? {
            ("http", authority) => Self::parse(authority, 80),
            ("https", authority) => Self::parse(authority, 443),
            _ => None,
        }
    }

    fn parse(text: &'a str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            // The last colon of a bare IPv6 address in brackets is no port's.
            Some((_, rest)) if rest.ends_with(']') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let port = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
            Some(_) => return None,
            None => default_port,
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~[]:%".contains(&byte);
        (!host.is_empty() && host.bytes().all(is_plain)).then_some(Self { host, port })
    }

    fn ip(self) -> Option<IpAddr> {
        let host = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(self.host);
        host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
    }

    fn is_loopback(self) -> bool {
        let name = self.host.strip_suffix('.').unwrap_or(self.host);
        let is_local_name = || {
            // RFC 6761: every name under localhost is the loopback, and browsers never ask DNS for it.
            let top = name.rsplit('.').next().unwrap_or(name);
            top.eq_ignore_ascii_case("localhost")
        };
        self.ip().map_or_else(is_local_name, |ip| ip.is_loopback())
    }

    fn is_same_server(self, other: Self) -> bool {
        self.port == other.port
            && (self.host.eq_ignore_ascii_case(other.host) || self.is_loopback() && other.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let request = headers.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn without_token(bound: &str) -> Access {
        Access::new(Arc::new(Tokens::new(&[])), bound.parse().unwrap())
    }

    #[test]
    fn without_a_token_only_loopback_names_and_the_bound_address_pass() {
        let access = without_token("10.1.2.3:8081");
        for (host, passes) in [
            ("localhost:8081", true),
            ("LOCALHOST", true),
            ("localhost.:8081", true),
            ("drain.localhost:9000", true),
            ("127.0.0.1:8081", true),
            ("127.9.9.9", true),
            ("[::1]:8081", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.1.2.3:8081", true),
            ("10.1.2.3", true),
            ("10.1.2.4:8081", false),
            ("evil.example:8081", false),
            ("localhost.evil.example:8081", false),
            ("127.0.0.1.evil.example", false),
            ("evil.example@localhost", false),
            ("notlocalhost", false),
            ("localhost:80a", false),
            ("", false),
        ] {
            let expected = if passes { Ok(()) } else { Err(Denied::Host) };
            assert_eq!(access.check(&head(&[("host", host)]), false), expected, "{host}");
        }
        assert_eq!(access.check(&head(&[]), false), Err(Denied::Host));
        assert_eq!(access.check(&head(&[("host", "localhost"), ("host", "evil")]), false), Err(Denied::Host));
        assert_eq!(access.check(&head(&[("host", "evil.example")]), true), Ok(()));
    }

    #[test]
    fn listening_everywhere_any_address_passes_but_no_other_name() {
        for bound in ["0.0.0.0:8081", "[::]:8081"] {
            let access = without_token(bound);
            assert_eq!(access.check(&head(&[("host", "192.168.7.7:8081")]), false), Ok(()));
            assert_eq!(access.check(&head(&[("host", "[fdaa::3]:8081")]), false), Ok(()));
            assert_eq!(access.check(&head(&[("host", "evil.example:8081")]), false), Err(Denied::Host));
        }
    }

    #[test]
    fn without_a_token_foreign_pages_are_turned_away() {
        let access = without_token("127.0.0.1:8081");
        let check = |name, value, open| access.check(&head(&[("host", "localhost:8081"), (name, value)]), open);
        for (origin, passes) in [
            ("http://localhost:8081", true),
            ("http://127.0.0.1:8081", true),
            ("http://[::1]:8081", true),
            ("https://localhost:8081", true),
            ("http://localhost:3000", false),
            ("http://localhost", false),
            ("https://evil.example", false),
            ("http://evil.example:8081", false),
            ("null", false),
            ("file://", false),
            ("chrome-extension://abc", false),
            ("", false),
        ] {
            for open in [false, true] {
                let expected = if passes { Ok(()) } else { Err(Denied::Origin) };
                assert_eq!(check("origin", origin, open), expected, "{origin} {open}");
            }
        }
        for (site, passes) in [("cross-site", false), ("same-site", true), ("same-origin", true), ("none", true)] {
            assert_eq!(check("sec-fetch-site", site, false).is_ok(), passes, "{site}");
        }
    }

    #[test]
    fn a_default_port_may_be_left_out_on_either_side() {
        let access = without_token("10.0.0.1:80");
        let check = |host, origin| access.check(&head(&[("host", host), ("origin", origin)]), false);
        assert_eq!(check("10.0.0.1", "http://10.0.0.1:80"), Ok(()));
        assert_eq!(check("10.0.0.1:80", "http://10.0.0.1"), Ok(()));
        assert_eq!(check("10.0.0.1", "http://10.0.0.1:81"), Err(Denied::Origin));
    }

    #[test]
    fn with_a_token_names_and_origins_do_not_matter_and_the_token_does() {
        let access = Access::new(Arc::new(Tokens::new(&["t".into()])), "[::]:8081".parse().unwrap());
        let from = |token| [("host", "drain.example"), ("origin", "https://page.example"), ("authorization", token)];
        assert_eq!(access.check(&head(&from("Bearer t")), false), Ok(()));
        assert_eq!(access.check(&head(&from("Bearer x")), false), Err(Denied::Token));
        assert_eq!(access.check(&head(&from("Bearer x")), true), Ok(()));
        assert_eq!(access.check(&head(&[]), false), Err(Denied::Token));
        assert_eq!(access.check(&head(&[]), true), Ok(()));
    }
}
