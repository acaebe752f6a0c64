//! What nobody is to see: read from a setting or a file, printed nowhere.

use std::{fmt, fs, path::Path};

use serde::Deserialize;

use super::BadSetting;

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A secret that is set as `key`, or stands in the file that is set as `file_key`; `None` where neither is.
///
/// # Errors
///
/// When both are set, the file cannot be read, or what stands there is no secret.
pub(super) fn secret(
    key: &'static str,
    file_key: &'static str,
    set: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<String>, BadSetting> {
    let (key, text) = match (set, file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(bad(file_key, format!("it does not go with {key}"))),
        (Some(Secret(text)), None) => (key, text.clone()),
        (None, Some(path)) => {
            let text = String::from_utf8(read_file(file_key, path)?);
            (file_key, text.map_err(|_| bad(file_key, "it is not UTF-8"))?.trim_end().to_owned())
        }
    };
    if text.is_empty() || text.contains(char::is_control) {
        return Err(bad(key, "it is empty, or holds a line break or another control character"));
    }
    Ok(Some(text))
}

/// What stands in a file that is set as `key`.
pub(super) fn read_file(key: &'static str, path: &Path) -> Result<Vec<u8>, BadSetting> {
    fs::read(path).map_err(|error| bad(key, format!("{}: {error}", path.display())))
}

fn bad(key: &'static str, problem: impl Into<String>) -> BadSetting {
    BadSetting { key, problem: problem.into() }
}
