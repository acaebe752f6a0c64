//! Stub: builds and wires all rooms. (Another session writes it.)

use crate::config::{Loaded, Loader};

/// Runs the drain until it is told to stop; `loader` reads the configuration anew on SIGHUP.
///
/// # Errors
/// What kept it from listening, or what was left behind at shutdown: exit 74.
pub async fn serve(loaded: Loaded, loader: Loader) -> std::io::Result<()> {
    let _ = (loaded, loader);
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "not built yet"))
}
