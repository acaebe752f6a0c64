//! Batches on to the stores that people have.
//!
//! A [`Sink`] is one destination: it turns a [`Parcel`] of lines into the store's own form and says what became of it. All else is
//! the delivery loop's, once for all of them: which lines a sink wants, how many of them make a parcel, how many parcels are under
//! way at once, when a parcel is tried again, and what is done with one that is never taken.
//!
//! One destination is one file here, with its settings; one variant of `Settings`; one arm where they are made.

#![allow(dead_code, reason = "the delivery loop comes next")]

mod encode;
mod parcel;

mod http;
mod null;

use std::{pin::Pin, time::Duration};

pub(crate) use self::{
    encode::Encoding,
    parcel::{Parcel, Rows, Run},
};

/// A destination's own settings, by its `type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settings {
    Http(Box<http::Settings>),
    Null(null::Settings),
}

impl Settings {
    /// Makes the destination.
    ///
    /// # Errors
    ///
    /// When a setting cannot be: a template with an unknown field, a URL that is none, a file of secrets that cannot be read.
    pub(crate) fn make(&self, made_for: &MadeFor<'_>) -> Result<Box<dyn Sink>, BadSetting> {
        Ok(match self {
            Self::Http(settings) => Box::new(settings.make(made_for)?),
            Self::Null(_) => Box::new(null::Null),
        })
    }

    /// How much makes a parcel unless it is set: what the store is known to like.
    pub(crate) fn parcel_defaults(&self) -> ParcelBounds {
        match self {
            Self::Http(settings) => settings.parcel_defaults(),
            Self::Null(_) => ParcelBounds::default(),
        }
    }
}

/// What a destination is told of the sink that it is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MadeFor<'a> {
    /// The sink's name in the configuration: lower-case letters, digits and `_`.
    pub(crate) name: &'a str,
    pub(crate) encoding: Encoding,
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

/// What a delivery comes to.
pub(crate) type Delivery<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// One destination.
pub(crate) trait Sink: Send + Sync + 'static {
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
    /// It has taken all lines but these, by their place in [`Parcel::entries`], ascending.
    #[error("{reason}")]
    Partly { again: Vec<usize>, never: Vec<usize>, reason: String },
}
