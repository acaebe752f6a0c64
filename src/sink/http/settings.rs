//! What a user sets of the sink `http`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::form::Format;
use crate::{config::value::de_duration_some, sink::secret::Secret};

/// `type = "http"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where to. Without a path the store's own is taken; what stands in the query goes before what the store needs there.
    pub(super) url: String,
    pub(super) format: Format,
    pub(super) method: Method,
    pub(super) headers: BTreeMap<String, Secret>,
    /// Sent the way that the store wants it: a bearer's, unless it has another.
    pub(super) token: Option<Secret>,
    pub(super) token_file: Option<PathBuf>,
    /// The header that the token is, as it stands: for stores that want it neither as a bearer's nor as their format says.
    pub(super) token_header: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<PathBuf>,
    /// The store's own default: `gzip` for those on the far side of the internet, else `none`.
    pub(super) compression: Option<Compression>,
    /// Certificates in PEM: believe only whom they name.
    pub(super) ca_file: Option<PathBuf>,
    /// How long a TCP connection may take to come about; `10s` unless set. The whole of a delivery is bounded by the loop.
    #[serde(deserialize_with = "de_duration_some")]
    pub(super) connect_timeout: Option<Duration>,
    /// Elasticsearch: index or data stream. `{app}`, `{region}` and `{date}` are the line's.
    pub(super) index: Option<String>,
    /// Axiom.
    pub(super) dataset: Option<String>,
    /// ClickHouse.
    pub(super) database: Option<String>,
    pub(super) table: Option<String>,
    /// ClickHouse: send `insert_deduplication_token`; servers before 22.2 do not know it.
    pub(super) deduplicate: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Method {
    #[default]
    #[serde(rename = "POST", alias = "post")]
    Post,
    #[serde(rename = "PUT", alias = "put")]
    Put,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}
