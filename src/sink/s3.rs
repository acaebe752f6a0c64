//! The sink `s3`: objects in a bucket of S3 or of whoever speaks its protocol.
//!
//! A parcel becomes one object for each name that the key's template gives its lines. The id of these lines is in the key: the same
//! lines sent again overwrite themselves.

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use futures_util::{StreamExt, stream};
use object_store::{
    Error, MultipartUpload, ObjectStoreExt, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use serde::Deserialize;
use tokio::runtime::Handle;

use super::{
    BadSetting, Delivery, Destination, Encoding, FORM_BYTES, Failure, MadeFor, Parcel, ParcelBounds, Sink,
    compress::Compression,
    lots::{Lot, split, told},
    secret::secret,
    template::{Field, Template},
    unavailable, with_causes,
};
use crate::config::value::de_size;

/// Parcels under way at once: each holds its lines several times over while it is packed.
const CONCURRENCY_MAX: usize = 8;

/// Objects of one parcel that are sent at once.
const OBJECTS_AT_ONCE: usize = 8;

/// The least that S3 takes as a part, but for the last.
const PART_BYTES_MIN: usize = 5 << 20;

/// `type = "s3"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    bucket: String,
    /// Of the store, without the bucket; AWS's own for the region unless it is set here or in `AWS_ENDPOINT_URL_S3`.
    endpoint: Option<String>,
    /// Unless it is set: `AWS_REGION`, or us-east-1.
    region: Option<String>,
    /// The objects' keys.
    #[serde(default = "default_key")]
    key: String,
    #[serde(default)]
    compression: Compression,
    /// Whether the bucket stands in the path of the URL, not in its host.
    #[serde(default = "yes")]
    path_style: bool,
    /// Files that hold the credentials. Without: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, a web identity, or what the
    /// instance has.
    access_key_id_file: Option<PathBuf>,
    secret_access_key_file: Option<PathBuf>,
    /// An object larger than this is sent in parts of this size.
    #[serde(default = "default_part_bytes", deserialize_with = "de_size")]
    part_bytes: usize,
}

fn default_key() -> String {
    "{app}/{date}/{hour}/{id}.ndjson".to_owned()
}

fn default_part_bytes() -> usize {
    16 << 20
}

fn yes() -> bool {
    true
}

fn bad(key: &'static str, problem: String) -> BadSetting {
    BadSetting { key, problem }
}

impl Settings {
    fn store(&self) -> Result<AmazonS3, BadSetting> {
        crate::tls::install_provider();
        // Nothing is tried again here: that is the delivery loop's, and it must know.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_retry(retry)
            .with_virtual_hosted_style_request(!self.path_style);
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(self.endpoint(endpoint)?).with_allow_http(endpoint.starts_with("http://"));
        }
        let (id, key) = (self.access_key_id_file.as_deref(), self.secret_access_key_file.as_deref());
        match (id, key) {
            (Some(_), None) => {
                return Err(bad("secret_access_key_file", "is missing beside access_key_id_file".to_owned()));
            }
            (None, Some(_)) => {
                return Err(bad("access_key_id_file", "is missing beside secret_access_key_file".to_owned()));
            }
            _ => {}
        }
        let id = secret("access_key_id", "access_key_id_file", None, id)?;
        let key = secret("secret_access_key", "secret_access_key_file", None, key)?;
        if let (Some(id), Some(key)) = (id, key) {
            builder = builder.with_access_key_id(id).with_secret_access_key(key);
        }
        builder.build().map_err(|error| bad("bucket", error.to_string()))
    }

    /// The endpoint as its protocol wants it: with the bucket in the host unless that is in the path.
    fn endpoint(&self, endpoint: &str) -> Result<String, BadSetting> {
        let url = endpoint.trim_end_matches('/');
        match url.split_once("://") {
            Some((scheme @ ("http" | "https"), host)) if !host.is_empty() => Ok(match self.path_style {
                true => url.to_owned(),
                false => format!("{scheme}://{}.{host}", self.bucket),
            }),
            _ => Err(bad("endpoint", format!("{endpoint:?}: expected a URL such as https://fly.storage.tigris.dev"))),
        }
    }
}

impl Destination for Settings {
    type Sink = S3;

    fn make(&self, made_for: &MadeFor) -> Result<S3, BadSetting> {
        let template =
            Template::parse(&self.key, true).map_err(|problem| bad("key", format!("{:?}: {problem}", self.key)))?;
        if !template.has(Field::Id) {
            return Err(bad("key", format!("{:?}: without {{id}} objects would overwrite each other", self.key)));
        }
        if self.part_bytes < PART_BYTES_MIN {
            return Err(bad("part_bytes", "must be at least 5MiB".to_owned()));
        }
        let (compression, part_bytes) = (self.compression, self.part_bytes);
        Ok(S3 { store: self.store()?, template, encoding: made_for.encoding, compression, part_bytes })
    }

    fn parcel_defaults(&self) -> ParcelBounds {
        // A request costs money, and a small object costs whoever reads it time.
        ParcelBounds { lines: 100_000, bytes: 8 << 20, age: std::time::Duration::from_secs(10) }
    }
}

/// Objects in a bucket.
pub(crate) struct S3 {
    store: AmazonS3,
    template: Template,
    encoding: Encoding,
    compression: Compression,
    part_bytes: usize,
}

impl S3 {
    /// Packs a lot and puts it where it belongs.
    async fn put_lot(&self, name: String, lines: Vec<u8>) -> Result<(), Failure> {
        let path = Path::parse(self.compression.named(name));
        let path = path.map_err(|error| Failure::Never { reason: error.to_string() })?;
        let packed = self.compression.pack_aside(lines).await?;
        self.put(&path, packed).await.map_err(|error| failure(&error))
    }

    async fn put(&self, path: &Path, mut object: bytes::Bytes) -> Result<(), Error> {
        if object.len() <= self.part_bytes {
            return self.store.put(path, object.into()).await.map(drop);
        }
        let mut upload = InParts(Some(self.store.put_multipart(path).await?));
        while !object.is_empty() {
            let part = object.split_to(self.part_bytes.min(object.len()));
            upload.own().put_part(PutPayload::from_bytes(part)).await?;
        }
        upload.own().complete().await?;
        upload.0 = None;
        Ok(())
    }
}

/// An upload in parts. Dropped before it is complete, with an error or because the delivery's time is up, it is aborted: what was sent of it
/// would be paid for until somebody finds it.
struct InParts(Option<Box<dyn MultipartUpload>>);

impl InParts {
    fn own(&mut self) -> &mut dyn MultipartUpload {
        self.0.as_deref_mut().expect("it is there until it is complete")
    }
}

impl Drop for InParts {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

impl Sink for S3 {
    fn deliver<'a>(&'a self, parcel: &'a Parcel) -> Delivery<'a> {
        Box::pin(async move {
            let lots = split(parcel, &self.template, self.encoding, true, |_| Vec::new());
            let count = lots.len();
            let put = |Lot { name, buffer: lines, places, .. }: Lot| async move {
                self.put_lot(name, lines).await.map_err(|failure| (places, failure))
            };
            let done: Vec<_> = stream::iter(lots).map(put).buffer_unordered(OBJECTS_AT_ONCE).collect().await;
            let failed: Vec<_> = done.into_iter().filter_map(Result::err).collect();
            told(failed, count)
        })
    }

    /// Begins an upload in parts and gives it up: that asks for no right but to write, and leaves nothing.
    fn probe(&self) -> Delivery<'_> {
        Box::pin(async {
            let path = Path::from("fleetdrain-probe");
            let mut upload = self.store.put_multipart(&path).await.map_err(|error| failure(&error))?;
            // The right to do this is another, which is no reason not to write.
            let _ = upload.abort().await;
            Ok(())
        })
    }

    fn concurrency_max(&self) -> usize {
        CONCURRENCY_MAX
    }

    /// As they are, and packed.
    fn form_bytes(&self, parcel: &Parcel) -> usize {
        2 * (parcel.bytes() as usize + parcel.lines() * FORM_BYTES)
    }
}

/// What a store says where it does not know us, or the place, with a status that says less.
const DENIALS: [&str; 6] = [
    "ExpiredToken",
    "InvalidToken",
    "InvalidBucketName",
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    // Of the client, where a redirect has no target: another region's bucket.
    "Received redirect",
];

/// Nothing that a store says of an object is about its lines: none is ever given up for it.
fn failure(error: &Error) -> Failure {
    let reason = with_causes(error);
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    match error {
        Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            Failure::Denied { reason }
        }
        _ if says(&["EntityTooLarge", "status code: 413"]) => Failure::TooLarge { reason },
        _ if says(&DENIALS) => Failure::Denied { reason },
        _ => unavailable(reason),
    }
}
