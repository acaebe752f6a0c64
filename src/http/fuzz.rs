//! The targets of rooms in here.

pub(crate) use super::guard::fuzz::framing;
