//! The sink `null`: takes everything and keeps nothing.

use serde::Deserialize;

use super::{Delivery, Parcel, Sink};

/// `type = "null"`: no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {}

/// Takes everything and keeps nothing.
pub(super) struct Null;

impl Sink for Null {
    fn deliver<'a>(&'a self, _: &'a Parcel) -> Delivery<'a> {
        Box::pin(async { Ok(()) })
    }

    fn probe(&self) -> Delivery<'_> {
        Box::pin(async { Ok(()) })
    }
}
