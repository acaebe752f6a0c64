//! Who gets in: TLS on both listeners, signed links, tokens and certificates that are changed while the drain runs.

#![cfg(all(feature = "cli", feature = "tls"))]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

#[path = "access/links.rs"]
mod links;
#[path = "access/pki.rs"]
mod pki;
#[path = "access/tls.rs"]
mod tls;

use std::{future::Future, time::Duration};

/// A bound on every wait: nothing here takes long unless it hangs.
const SOON: Duration = Duration::from_secs(20);

/// What `future` comes to, which is to be soon.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("this takes no time unless it hangs")
}
