//! What the client commands and sinks need of TLS: whom to believe, and a handshake.

#[cfg(feature = "cli")]
use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, Error, RootCertStore};
#[cfg(feature = "cli")]
use rustls_pki_types::ServerName;
#[cfg(feature = "cli")]
use tokio::net::TcpStream;
#[cfg(feature = "cli")]
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ALPN, chain, provider};

/// Whom a client believes.
#[derive(Clone, Debug)]
pub(crate) struct Trust(Arc<ClientConfig>);

/// Why a client believes nobody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("this system has no certificates to trust: install ca-certificates, or name a file of them")]
    NoSystemRoots,
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    #[error("certificate {number} cannot be used")]
    Certificate { number: usize, source: Error },
}

impl Trust {
    /// Whom this system believes. Its own store and not one built in: a company's own authority is in there, and it is kept up
    /// to date by who keeps the system.
    pub(crate) fn system() -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() { Err(TrustError::NoSystemRoots) } else { Ok(Self::new(roots)) }
    }

    /// Whom the certificates in `pem` name, and nobody else.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for (number, certificate) in (1..).zip(chain(pem).ok_or(TrustError::NoCertificate)?) {
            roots.add(certificate).map_err(|source| TrustError::Certificate { number, source })?;
        }
        Ok(Self::new(roots))
    }

    fn new(roots: RootCertStore) -> Self {
        let versions = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let versions = versions.expect("ring has cipher suites for the default versions");
        let mut config = versions.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self(Arc::new(config))
    }

    /// Nobody: for a client that never speaks TLS.
    #[cfg(feature = "sinks")]
    pub(crate) fn nobody() -> Self {
        Self::new(RootCertStore::empty())
    }

    /// For a connector that names the protocols itself.
    #[cfg(feature = "sinks")]
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = (*self.0).clone();
        config.alpn_protocols.clear();
        config
    }

    /// Shakes hands with `host`, a name or an address, which must be what the far side's certificate says.
    #[cfg(feature = "cli")]
    pub(crate) async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await
    }
}
