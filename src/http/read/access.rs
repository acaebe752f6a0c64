//! Who may read: a token everything, a signed link what it says; where there is neither, only what cannot be a web page in a
//! developer's browser.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hyper::{
    HeaderMap, Method, StatusCode,
    header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN},
    http::request::Parts,
};
use jiff::Timestamp;

use super::{
    params::{Secret, secret},
    routes::Route,
};
use crate::{
    grant::{BadGrant, Grant},
    http::auth::{Live, Presented, Tokens, presented},
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The parameter that carries a link's token.
pub(super) const ACCESS_TOKEN: &str = "access_token";

/// The rules of one control listener.
#[derive(Debug)]
pub(crate) struct Access {
    tokens: Arc<Tokens>,
    bound: SocketAddr,
    /// Of a Host or Origin that names none.
    default_port: u16,
    cors_origins: Vec<String>,
}

/// Who asks, as far as may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Whoever may read everything.
    Anyone,
    /// Who holds a signed link.
    Holder(Arc<Grant>),
}

impl Who {
    /// What the holder of a link may read; `None`: everything.
    pub(super) fn grant(&self) -> Option<&Arc<Grant>> {
        match self {
            Self::Anyone => None,
            Self::Holder(grant) => Some(grant),
        }
    }
}

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("a token is needed: send it as Authorization: Bearer TOKEN")]
    Token,
    #[error("this token is not, or no longer, one of this drain's")]
    WrongToken,
    #[error("the link's token is worth nothing: {0}")]
    Link(#[from] BadGrant),
    #[error("a link may only GET logs, tail and machines")]
    Limited,
    #[error("a token is given twice, once in the head is enough")]
    Twice,
    #[error("without a token, Host must be a loopback name or the address that is listened on")]
    Host,
    #[error("without a token, web pages of other origins may not read")]
    Origin,
}

impl Denied {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Token | Self::WrongToken | Self::Link(_) => StatusCode::UNAUTHORIZED,
            Self::Limited | Self::Host | Self::Origin => StatusCode::FORBIDDEN,
            Self::Twice => StatusCode::BAD_REQUEST,
        }
    }
}

impl Access {
    /// Rules for a plain listener at `bound`.
    pub(crate) fn new(tokens: Arc<Tokens>, bound: SocketAddr) -> Self {
        Self { tokens, bound, default_port: 80, cors_origins: Vec::new() }
    }

    pub(super) fn speaks_tls(&self) -> bool {
        self.default_port == 443
    }

    pub(crate) fn with_tls(self, speaks_tls: bool) -> Self {
        Self { default_port: if speaks_tls { 443 } else { 80 }, ..self }
    }

    /// Web pages that may read what a link may read.
    pub(crate) fn with_cors_origins(self, origins: &[String]) -> Self {
        Self { cors_origins: origins.to_vec(), ..self }
    }

    /// Who asks, and whether that one may pass. Open routes (health, metrics) need neither token nor name: scrapers come by any
    /// name.
    ///
    /// Order matters to nobody, but without a token a foreign page is turned away even from what is open.
    pub(super) fn check(&self, head: &Parts, route: Option<&Route>) -> Result<Who, Denied> {
        let live = self.tokens.live();
        let open = route.is_some_and(|route| route.open);
        if !live.is_open() {
            return if open { Ok(Who::Anyone) } else { identify(&live, head, route) };
        }
        let host = Authority::of_request(head, self.default_port);
        if is_foreign(&head.headers, host) {
            return Err(Denied::Origin);
        }
        if open || host.is_some_and(|host| self.is_own(host)) { Ok(Who::Anyone) } else { Err(Denied::Host) }
    }

    /// The origin of the web page that asks, if it may read what a link may read and asks for that.
    pub(super) fn page<'a>(&self, head: &'a Parts, route: Option<&Route>) -> Option<&'a HeaderValue> {
        let is_for_links = self.tells_pages_apart(route) && !self.tokens.live().is_open();
        let method = if head.method == Method::OPTIONS { preflighted(head)? } else { head.method.as_str() };
        let mut origins = head.headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
        let is_known = self.cors_origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
        (is_for_links && is_known && ["GET", "HEAD"].contains(&method)).then_some(origin)
    }

    /// Whether an answer depends on the page that asks.
    pub(super) fn tells_pages_apart(&self, route: Option<&Route>) -> bool {
        !self.cors_origins.is_empty() && route.is_some_and(|route| route.call.is_for_links())
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

/// The method that a browser asks for on behalf of a page; `None` where the request is no such question.
pub(super) fn preflighted(head: &Parts) -> Option<&str> {
    let method = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|_| head.method == Method::OPTIONS)?;
    method.to_str().ok()
}

/// Who asks, by what the request presents.
fn identify(live: &Live, head: &Parts, route: Option<&Route>) -> Result<Who, Denied> {
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    let is_stream = is_read && route.is_some_and(|route| route.call.is_stream());
    // A token in a URL is kept in histories and proxies' logs: only a link's, which is little and ends, and only where a page
    // cannot send a head.
    let in_query = if is_stream { secret(head.uri.query(), ACCESS_TOKEN) } else { Secret::None };
    let link = match (presented(&head.headers), in_query) {
        (None, Secret::None) => return Err(Denied::Token),
        (None, Secret::One(link)) if !head.headers.contains_key(AUTHORIZATION) => link,
        (_, Secret::One(_) | Secret::More) => return Err(Denied::Twice),
        (Some(Presented::Bearer(token) | Presented::Password(token)), _) if live.has(&token) => return Ok(Who::Anyone),
        (Some(Presented::Password(_)), _) => return Err(Denied::WrongToken),
        // What cannot be a link's token is a wrong one of the other kind.
        (Some(Presented::Bearer(token)), _) if live.keys.is_empty() || !token.contains(&b'.') => {
            return Err(Denied::WrongToken);
        }
        (Some(Presented::Bearer(token)), _) => token,
    };
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
    let grant = live.keys.verify(&link, now)?;
    if is_read && route.is_some_and(|route| route.call.is_for_links()) {
        Ok(Who::Holder(Arc::new(grant)))
    } else {
        Err(Denied::Limited)
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
    fn of_request(head: &'a Parts, default_port: u16) -> Option<Self> {
        let mut hosts = head.headers.get_all(HOST).iter();
        let target = head.uri.authority().map(hyper::http::uri::Authority::as_str);
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => Some(host.to_str().ok()?),
            (None, _) => None,
            (Some(_), Some(_)) => return None,
        };
        match (host, target) {
            (Some(host), Some(target)) if !host.eq_ignore_ascii_case(target) => None,
            (host, target) => Self::parse(host.or(target)?, default_port),
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
    use crate::http::read::routes;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let request = headers.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    /// The check of a call that needs a token, or of one that needs none.
    fn check(access: &Access, head: &Parts, open: bool) -> Result<(), Denied> {
        let (route, _) = routes::find(if open { "/metrics" } else { "/api/v1/stats" }).unwrap();
        access.check(head, Some(route)).map(|who| assert_eq!(who, Who::Anyone))
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
            assert_eq!(check(&access, &head(&[("host", host)]), false), expected, "{host}");
        }
        assert_eq!(check(&access, &head(&[]), false), Err(Denied::Host));
        assert_eq!(check(&access, &head(&[("host", "localhost"), ("host", "evil")]), false), Err(Denied::Host));
        assert_eq!(check(&access, &head(&[("host", "evil.example")]), true), Ok(()));
    }

    #[test]
    fn listening_everywhere_any_address_passes_but_no_other_name() {
        for bound in ["0.0.0.0:8081", "[::]:8081"] {
            let access = without_token(bound);
            assert_eq!(check(&access, &head(&[("host", "192.168.7.7:8081")]), false), Ok(()));
            assert_eq!(check(&access, &head(&[("host", "[fdaa::3]:8081")]), false), Ok(()));
            assert_eq!(check(&access, &head(&[("host", "evil.example:8081")]), false), Err(Denied::Host));
        }
    }

    #[test]
    fn without_a_token_foreign_pages_are_turned_away() {
        let access = without_token("127.0.0.1:8081");
        let check = |name, value, open| check(&access, &head(&[("host", "localhost:8081"), (name, value)]), open);
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
        let check = |host, origin| check(&access, &head(&[("host", host), ("origin", origin)]), false);
        assert_eq!(check("10.0.0.1", "http://10.0.0.1:80"), Ok(()));
        assert_eq!(check("10.0.0.1:80", "http://10.0.0.1"), Ok(()));
        assert_eq!(check("10.0.0.1", "http://10.0.0.1:81"), Err(Denied::Origin));
    }

    #[test]
    fn with_a_token_names_and_origins_do_not_matter_and_the_token_does() {
        let access = Access::new(Arc::new(Tokens::new(&["t".into()])), "[::]:8081".parse().unwrap());
        let from = |token| [("host", "drain.example"), ("origin", "https://page.example"), ("authorization", token)];
        assert_eq!(check(&access, &head(&from("Bearer t")), false), Ok(()));
        assert_eq!(check(&access, &head(&from("Bearer x")), false), Err(Denied::WrongToken));
        assert_eq!(check(&access, &head(&from("Bearer x")), true), Ok(()));
        assert_eq!(check(&access, &head(&[]), false), Err(Denied::Token));
        assert_eq!(check(&access, &head(&[]), true), Ok(()));
    }
}
