//! The sink `http`: parcels as requests, to the stores that take logs so.
//!
//! What differs from store to store is in two places: `form` writes bodies, `answer` reads answers. The rest is one client, which
//! keeps connections, follows no redirects and reads no more of an answer than it has use for.

mod answer;
mod buffers;
mod compress;
mod form;
mod make;
mod settings;
mod time;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, Uri,
    body::Incoming,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};

pub(crate) use self::settings::Settings;
use self::{answer::Answer, buffers::Buffers, form::Form, settings::Compression};
use super::{Delivery, Failure, Parcel, Sink, aside, unavailable, with_causes};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const AGENT: &str = concat!("fleetdrain/", env!("CARGO_PKG_VERSION"));

/// Of an answer. What comes behind that is not read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// One store.
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    form: Form,
    method: hyper::Method,
    target: Target,
    headers: HeaderMap,
    compression: Compression,
    buffers: Buffers,
    /// Whatever an answer says, these are not repeated.
    secrets: Vec<String>,
}

/// Where requests go.
struct Target {
    uri: Uri,
    /// Behind this the query goes on with the parcel's id.
    uri_before_id: Option<String>,
    /// Named in failures; the rest of a URL may hold a secret.
    store: String,
}

impl Sink for Http {
    fn deliver<'a>(&'a self, parcel: &'a Parcel) -> Delivery<'a> {
        Box::pin(self.send(parcel))
    }

    fn form_bytes(&self, parcel: &Parcel) -> usize {
        let body = self.form.size_hint(parcel);
        if self.compression == Compression::None { body } else { 2 * body }
    }

    /// Sends a body that holds nothing: that asks for the rights that lines need, and for the place where they go.
    fn probe(&self) -> Delivery<'_> {
        Box::pin(async {
            let request = self.request(&self.target.uri, Bytes::from_static(self.form.nothing()), None);
            let answer = self.ask(request?, 0).await?;
            answer.judge_probe().map_err(|failed| failed.told_by(&self.target.store, |text| self.mask(text, &[])))
        })
    }
}

impl Http {
    async fn send(&self, parcel: &Parcel) -> Result<(), Failure> {
        let mut body = self.buffers.take(self.form.size_hint(parcel));
        self.form.write(parcel, &mut body);
        let body = self.compress(body).await?;
        let request = self.request(&self.uri_for(parcel)?, body.clone(), Some(parcel.id()))?;
        let answer = self.ask(request, parcel.lines()).await?;
        self.buffers.give_back(body);
        answer.judge(self.form.format, parcel.lines()).map_err(|failed| {
            failed.told_by(&self.target.store, |text| {
                let mut sent = self.buffers.take(self.form.size_hint(parcel));
                self.form.write(parcel, &mut sent);
                self.mask(text, &sent)
            })
        })
    }

    /// Off the runtime's threads: a megabyte takes as long as hundreds of their other tasks.
    async fn compress(&self, body: Vec<u8>) -> Result<Bytes, Failure> {
        let compression = self.compression;
        if compression == Compression::None {
            return Ok(body.into());
        }
        let (compressed, plain) = aside(move || (compress::compress(compression, &body), body)).await?;
        self.buffers.give_back(plain.into());
        compressed.map(Bytes::from).map_err(|error| unavailable(format!("cannot compress: {error}")))
    }

    fn uri_for(&self, parcel: &Parcel) -> Result<Uri, Failure> {
        match &self.target.uri_before_id {
            None => Ok(self.target.uri.clone()),
            Some(before) => format!("{before}{}", parcel.id()).try_into().map_err(|_| never("the URL")),
        }
    }

    fn request(&self, uri: &Uri, body: Bytes, id: Option<&str>) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.form.format.content_type()));
        headers.extend(self.headers.clone());
        if let Some(id) = id {
            headers.insert(IDEMPOTENCY_KEY, id.try_into().map_err(|_| never("the parcel's id"))?);
            if let Some(encoding) = self.compression.content_encoding() {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
        }
        Ok(request)
    }

    async fn ask(&self, request: Request<Full<Bytes>>, lines: usize) -> Result<Answer, Failure> {
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| unavailable(format!("{}: {}", self.target.store, with_causes(&error))))?;
        Ok(read(answer, ANSWER_BYTES_MAX + self.form.format.answer_bytes_per_line() * lines).await)
    }

    /// What a store says, without what was sent to it.
    fn mask(&self, text: &[u8], sent: &[u8]) -> String {
        answer::mask(text, sent, &self.secrets)
    }
}

/// Reads the first of an answer; when that is not all of it, the connection is closed with the rest.
async fn read(answer: Response<Incoming>, bytes_max: usize) -> Answer {
    let (head, mut body) = answer.into_parts();
    let mut read = Answer::new(head.status, &head.headers);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            read.broke_off = true;
            break;
        };
        let Ok(data) = frame.into_data() else { continue };
        let room = bytes_max - read.body.len();
        read.body.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            read.cut_short = true;
            break;
        }
    }
    read
}

/// What the settings and [`Parcel::id`] rule out.
fn never(what: &str) -> Failure {
    Failure::Never { reason: format!("{what} cannot be sent") }
}
