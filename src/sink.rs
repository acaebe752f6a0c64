//! Batches on to the stores that people have.
//!
//! A [`Sink`] is one destination: it turns a [`Parcel`] of lines into the store's own form and says what became of it. All else is
//! the delivery loop's, once for all of them: which lines a sink wants, how many of them make a parcel, how many parcels are under
//! way at once, when a parcel is tried again, and what is done with one that is never taken.
//!
//! One destination is one file here, whose settings are a [`Destination`], and one row of `destinations!`.

pub(crate) mod config;

#[cfg(feature = "bench")]
pub(crate) mod bench;
mod compress;
mod encode;
mod lots;
mod member;
mod parcel;
mod secret;
mod template;

mod dead_letter;
mod drive;
pub(crate) mod running;

mod file;
mod http;
#[cfg(feature = "jetstream")]
mod jetstream;
mod null;
#[cfg(feature = "s3")]
mod s3;
mod stdout;

use std::{error::Error, panic::resume_unwind, path::Path, pin::Pin, time::Duration};

use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;

pub(crate) use self::{
    encode::Encoding,
    parcel::{Parcel, Rows, Run},
};

/// What is set of a destination, and what it comes to.
pub(crate) trait Destination: DeserializeOwned {
    type Sink: Sink;

    /// Makes the destination.
    ///
    /// # Errors
    ///
    /// When a setting cannot be: a template with an unknown field, a URL that is none, a file of secrets that cannot be read.
    fn make(&self, made_for: &MadeFor) -> Result<Self::Sink, BadSetting>;

    /// How much makes a parcel unless it is set: what the store is known to like.
    fn parcel_defaults(&self) -> ParcelBounds {
        ParcelBounds::default()
    }

    /// The directory that it wants for itself, with all that is below it.
    fn directory(&self) -> Option<&Path> {
        None
    }
}

macro_rules! destinations {
    ($($(#[$only:meta])? $kind:literal => $variant:ident($settings:ty)),+ $(,)?) => {
        /// A destination's own settings, by its `type`.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) enum Settings {
            $($(#[$only])? $variant(Box<$settings>)),+
        }

        impl Settings {
            /// What `type` may be.
            pub(crate) const KINDS: &[&str] = &[$($(#[$only])? $kind),+];

            /// Reads what is set of a destination of `kind`; `None` if there is no such kind.
            pub(crate) fn read(kind: &str, table: toml::Table) -> Option<Result<Self, toml::de::Error>> {
                match kind {
                    $($(#[$only])? $kind => Some(table.try_into().map(Self::$variant)),)+
                    _ => None,
                }
            }

            /// As [`Destination::make`].
            pub(crate) fn make(&self, made_for: &MadeFor) -> Result<Box<dyn Sink>, BadSetting> {
                match self {
                    $($(#[$only])? Self::$variant(settings) => Ok(Box::new(settings.make(made_for)?)),)+
                }
            }

            /// As [`Destination::parcel_defaults`].
            pub(crate) fn parcel_defaults(&self) -> ParcelBounds {
                match self {
                    $($(#[$only])? Self::$variant(settings) => settings.parcel_defaults(),)+
                }
            }

            /// As [`Destination::directory`].
            pub(crate) fn directory(&self) -> Option<&Path> {
                match self {
                    $($(#[$only])? Self::$variant(settings) => settings.directory(),)+
                }
            }
        }
    };
}

destinations! {
    "file" => File(file::Settings),
    "http" => Http(http::Settings),
    #[cfg(feature = "jetstream")]
    "jetstream" => JetStream(jetstream::Settings),
    "null" => Null(null::Settings),
    #[cfg(feature = "s3")]
    "s3" => S3(s3::Settings),
    "stdout" => Stdout(stdout::Settings),
}

/// What a destination is told of the sink that it is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MadeFor {
    pub(crate) encoding: Encoding,
    /// The drain whose lines it delivers, as that knows itself; `None` where nothing is delivered.
    pub(crate) drain: Option<u64>,
}

/// A setting that makes no sense, by its key within the sink's table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub(crate) struct BadSetting {
    pub(crate) key: &'static str,
    /// The value that was wrong and what was expected; never a secret.
    pub(crate) problem: String,
}

/// When a parcel is complete: at the first of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParcelBounds {
    pub(crate) lines: usize,
    /// Of the records as sent.
    pub(crate) bytes: usize,
    /// Of its oldest line.
    pub(crate) age: Duration,
}

impl Default for ParcelBounds {
    fn default() -> Self {
        Self { lines: 10_000, bytes: 1 << 20, age: Duration::from_secs(1) }
    }
}

/// What a line in its store's form needs beside its record as sent, about: its id and times, what the store wants to be told.
const FORM_BYTES: usize = 256;

/// What a delivery comes to.
pub(crate) type Delivery<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// One destination.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Takes what is its own, and completes what an earlier run has left there: before the first parcel, which does it again if this fails.
    fn open(&self) -> Delivery<'_> {
        Box::pin(async { Ok(()) })
    }

    /// Hands a parcel to the store and waits for its word. `Ok` means that the store has every line of it.
    ///
    /// May be called again with the same parcel, and with several at once up to [`Sink::concurrency_max`]. Dropped at any await
    /// when its time is up: what it had sent by then may have arrived.
    fn deliver<'a>(&'a self, parcel: &'a Parcel) -> Delivery<'a>;

    /// Whether the store would take lines now: that it is there, and lets us in. Leaves nothing in it.
    fn probe(&self) -> Delivery<'_>;

    /// Parcels that may be under way at once.
    fn concurrency_max(&self) -> usize {
        usize::MAX
    }

    /// What it needs in memory to deliver a parcel, about, beside the parcel: its lines in the store's form.
    fn form_bytes(&self, parcel: &Parcel) -> usize {
        parcel.bytes() as usize + parcel.lines() * FORM_BYTES
    }

    /// Makes what was delivered complete before the process ends, such as a file that is still open.
    fn close(&self) -> Delivery<'_> {
        Box::pin(async { Ok(()) })
    }
}

/// Why a store has not taken a parcel, and by that what is done with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It may take it later: time-outs, connections, 408, 425, 429, 5xx, a full disk. Tried again, not before `retry_after`.
    #[error("{reason}")]
    Unavailable { reason: String, retry_after: Option<Duration> },
    /// It does not know us, or the place: 401, 403, 404. Tried again, and alarmed.
    #[error("{reason}")]
    Denied { reason: String },
    /// The parcel is too large for it: split, and each half tried.
    #[error("{reason}")]
    TooLarge { reason: String },
    /// It will never take this parcel: split until the lines that it does not want are found, which go to the dead letters.
    #[error("{reason}")]
    Never { reason: String },
    /// It has taken all lines but these, by their place in [`Parcel::entries`], ascending. What may go again does not before `retry_after`.
    #[error("{reason}")]
    Partly { again: Vec<usize>, never: Vec<usize>, reason: String, retry_after: Option<Duration> },
}

/// Does what takes longer than a worker of the runtime has, on a thread for it. A panic there is one here.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_) => unavailable("the drain is shutting down".to_owned()),
    })
}

fn unavailable(reason: String) -> Failure {
    Failure::Unavailable { reason, retry_after: None }
}

/// An error and what is behind it, which libraries say last, unless it is said already.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
