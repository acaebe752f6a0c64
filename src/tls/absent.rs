//! What stands for TLS in a build without the feature `tls`: nothing that could exist, and an error that says so.

use std::io;

use jiff::Timestamp;
use tokio::net::TcpStream;

/// Never one: there is no certificate to accept it with.
pub(crate) type ServerStream<S> = S;

/// A certificate chain and its private key; none without the feature `tls`.
#[derive(Clone, Debug)]
pub enum Identity {}

/// Why a certificate and a key are none to present.
#[derive(Debug, thiserror::Error)]
#[error("this build has no TLS: it lacks the feature `tls`")]
pub struct IdentityError(());

impl IdentityError {
    pub(crate) fn is_of_key(&self) -> bool {
        false
    }
}

impl Identity {
    /// # Errors
    ///
    /// Always.
    pub fn from_pem(_certificates: &[u8], _key: &[u8]) -> Result<Self, IdentityError> {
        Err(IdentityError(()))
    }

    /// When the first certificate of the chain expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        match *self {}
    }
}

/// What a listener presents: nothing.
#[derive(Debug)]
pub(crate) enum Certificate {}

impl Certificate {
    pub(crate) fn new(identity: &Identity) -> Self {
        match *identity {}
    }

    pub(crate) fn replace(&self, _identity: &Identity) {
        match *self {}
    }

    pub(crate) fn expires(&self) -> Timestamp {
        match *self {}
    }

    pub(crate) async fn accept(&self, _stream: TcpStream) -> io::Result<TcpStream> {
        match *self {}
    }
}

/// Whom a client believes: nobody.
#[cfg(feature = "cli")]
#[derive(Clone, Debug)]
pub(crate) enum Trust {}

#[cfg(feature = "cli")]
impl Trust {
    pub(crate) fn system() -> Result<Self, IdentityError> {
        Err(IdentityError(()))
    }

    pub(crate) fn from_pem(_pem: &[u8]) -> Result<Self, IdentityError> {
        Err(IdentityError(()))
    }

    pub(crate) async fn connect(&self, _host: &str, _stream: TcpStream) -> io::Result<TcpStream> {
        match *self {}
    }
}
