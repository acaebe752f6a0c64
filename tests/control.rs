//! What the control listener says of itself: the page at `/`, and `openapi.json`, each held to what the listener does.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

#[path = "control/index.rs"]
mod index;
#[path = "control/openapi.rs"]
mod openapi;
