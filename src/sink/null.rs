//! The sink `null`: takes everything and keeps nothing.

use serde::Deserialize;

use super::{BadSetting, Delivery, Destination, MadeFor, Parcel, Sink};

/// `type = "null"`: no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {}

impl Destination for Settings {
    type Sink = Null;

    fn make(&self, _: &MadeFor) -> Result<Null, BadSetting> {
        Ok(Null)
    }
}

/// Takes everything and keeps nothing.
pub(crate) struct Null;

impl Sink for Null {
    fn deliver<'a>(&'a self, _: &'a Parcel) -> Delivery<'a> {
        Box::pin(async { Ok(()) })
    }

    fn probe(&self) -> Delivery<'_> {
        Box::pin(async { Ok(()) })
    }
}
