//! Refusals and errors as the sender reads them: a status and an `application/problem+json` (RFC 9457).

use std::time::Duration;

use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde::Serialize;

use super::{Body, full};
pub(crate) use crate::metrics::BodyRefusal as Reason;

impl Reason {
    /// The status that answers it.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::QueueFull => StatusCode::TOO_MANY_REQUESTS,
            Self::Memory | Self::Spool | Self::Jetstream | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An error as it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// For refused bodies only.
    pub(crate) reason: Option<Reason>,
    /// Names the value and the bound.
    pub(crate) detail: String,
    pub(crate) retry_after: Option<Duration>,
    /// The body may have been taken all the same.
    pub(crate) is_unknown: bool,
}

impl Problem {
    /// An error that is no refusal of a body.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, reason: None, detail: detail.into(), retry_after: None, is_unknown: false }
    }

    /// The refusal of a body.
    pub(crate) fn refusal(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason: Some(reason), ..Self::new(reason.status(), detail) }
    }

    /// Tells the sender when to come again, in whole seconds and at least one.
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    pub(crate) fn response(&self) -> Response<Body> {
        #[derive(Serialize)]
        struct Document<'a> {
            r#type: &'a str,
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
        }
        let title = self.status.canonical_reason().unwrap_or("Error");
        let reason = self.reason.map(Reason::as_str);
        let document =
            Document { r#type: "about:blank", title, status: self.status.as_u16(), detail: &self.detail, reason };
        let mut json = serde_json::to_vec(&document).unwrap_or_default();
        json.push(b'\n');
        let mut response = Response::new(full(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, whole_seconds(after).into());
        }
        response
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (9500, 10)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }

    #[test]
    fn a_refusal_has_its_status_and_its_reason() {
        let response = Problem::refusal(Reason::QueueFull, "machine 1 is full").retry_after(Duration::ZERO).response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
}
