//! Certificates and TLS streams, of the listeners, of the client commands and of sinks. The only user of rustls.
//!
//! Everything is read and checked before it is used: an [`Identity`] is a chain whose private key fits, so that giving a
//! listener another one cannot fail half-way.

use std::{fmt, io, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::RwLock;
use rustls::{
    CertificateError, Error, InconsistentKeys, RootCertStore, ServerConfig,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, ring},
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

pub(crate) use tokio_rustls::server::TlsStream as ServerStream;
#[cfg(any(feature = "cli", feature = "sinks"))]
pub(crate) use trust::Trust;

#[cfg(any(feature = "cli", feature = "sinks"))]
mod trust;

/// The only protocol spoken: contract, 2.
const ALPN: &[u8] = b"http/1.1";

/// Encrypted bytes that a connection holds for a far side that does not read. rustls would hold 64 KiB, and ten thousand
/// stalled readers are within bounds.
const UNSENT_BYTES_MAX: usize = 16 << 10;

/// A moment behind the end of 9999, the last that a certificate can name (RFC 5280, 4.1.2.5).
const AFTER_ALL: Duration = Duration::from_secs(253_402_300_800);

/// A certificate chain and the private key that fits its first certificate.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    expires: Timestamp,
}

/// Why a certificate and a key are none to present.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The certificates are not PEM, or there is none.
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    /// The key is not PEM, or there is none. Nothing of the file is repeated.
    #[error("it holds no private key in PEM, PKCS #8, PKCS #1 or SEC 1, that is not encrypted")]
    NoKey,
    /// A certificate cannot be read.
    #[error("certificate {number} cannot be used")]
    Certificate {
        /// Counted from 1.
        number: usize,
        /// Why.
        source: Error,
    },
    /// The key is of a kind that is not known.
    #[error("the private key cannot be used")]
    Key(#[source] Error),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the first certificate")]
    Mismatch,
}

impl IdentityError {
    /// Whether the file of the key is to blame, not that of the certificates.
    pub(crate) fn is_of_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::Key(_) | Self::Mismatch)
    }
}

impl Identity {
    /// Reads a chain, the server's own certificate first, and its private key, both PEM.
    ///
    /// # Errors
    ///
    /// What is wrong with which of the two.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = chain(certificates).ok_or(IdentityError::NoCertificate)?;
        let mut expires = Timestamp::MAX;
        for (number, certificate) in (1..).zip(&chain) {
            let not_after = not_after(certificate).map_err(|source| IdentityError::Certificate { number, source })?;
            expires = expires.min(not_after);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::NoKey)?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => IdentityError::Mismatch,
            error => IdentityError::Key(error),
        })?;
        Ok(Self { key: Arc::new(key), expires })
    }

    /// When the first certificate of the chain expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// All certificates in `pem`; `None` where there is none, or one that is broken.
fn chain(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!chain.is_empty()).then_some(chain)
}

/// When a certificate expires.
///
/// Only a refusal tells: at a time when every certificate has expired, the verdict is that this one has, and when. What the
/// verifier looks at first is the validity, whoever has issued it; the tests hold it to that.
fn not_after(certificate: &CertificateDer<'_>) -> Result<Timestamp, Error> {
    let certificate = ParsedCertificate::try_from(certificate)?;
    let (nobody, algorithms) = (RootCertStore::empty(), ring::default_provider().signature_verification_algorithms.all);
    let late = UnixTime::since_unix_epoch(AFTER_ALL);
    match verify_server_cert_signed_by_trust_anchor(&certificate, &nobody, &[], late, algorithms) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            let seconds = i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX);
            Ok(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
        }
        Err(error) => Err(error),
        Ok(()) => Err(Error::General("it never expires".to_owned())),
    }
}

/// Makes ring what everybody in the process speaks TLS by who does not say by what: the clients of object stores and of NATS
/// cannot be told.
#[cfg(any(feature = "s3", feature = "jetstream"))]
pub(crate) fn install_provider() {
    // Fails where there is one already, which is as well.
    let _ = ring::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What a listener presents; may be swapped while connections are open, which keep the one that they began with.
pub(crate) struct Certificate(RwLock<Presented>);

struct Presented {
    config: Arc<ServerConfig>,
    expires: Timestamp,
}

impl Presented {
    /// With sessions of its own, so that nobody resumes one that began with another certificate.
    fn new(identity: &Identity) -> Self {
        let versions = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let mut config = versions
            .expect("ring has cipher suites for the default versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self { config: Arc::new(config), expires: identity.expires }
    }
}

impl Certificate {
    pub(crate) fn new(identity: &Identity) -> Self {
        Self(RwLock::new(Presented::new(identity)))
    }

    /// Takes effect with the next connection.
    pub(crate) fn replace(&self, identity: &Identity) {
        *self.0.write() = Presented::new(identity);
    }

    pub(crate) fn expires(&self) -> Timestamp {
        self.0.read().expires
    }

    /// Shakes hands. Who does not begin like TLS, or speaks no HTTP/1.1, is an error at once.
    ///
    /// Dropping it closes the connection.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<ServerStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.read().config));
        let bound = |connection: &mut rustls::ServerConnection| {
            connection.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        };
        acceptor.accept_with(stream, bound).await
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("expires", &self.expires()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn params(not_after_year: i32) -> CertificateParams {
        let mut params = CertificateParams::new(["drain.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(not_after_year, 2, 3);
        params
    }

    /// A certificate that signs itself, and its key.
    fn signed(params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_says_when_it_expires_whatever_else_it_is() {
        let mut authority = params(2031);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut of_a_client = params(2032);
        of_a_client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let cases =
            [(params(2030), 2030), (authority, 2031), (of_a_client, 2032), (params(2021), 2021), (params(2060), 2060)];
        for (params, year) in cases {
            let (certificate, key) = signed(&params);
            let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
            assert_eq!(identity.expires(), at(&format!("{year}-02-03T00:00:00Z")));
        }
    }

    #[test]
    fn a_chain_expires_with_the_first_of_it() {
        let issuer_key = KeyPair::generate().unwrap();
        let mut issuer = params(2029);
        issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer_pem = issuer.self_signed(&issuer_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let own = params(2035).signed_by(&key, &Issuer::new(issuer, issuer_key)).unwrap().pem();
        let identity = Identity::from_pem((own + &issuer_pem).as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        assert_eq!(identity.expires(), at("2029-02-03T00:00:00Z"));
    }

    #[test]
    fn what_does_not_belong_together_is_told_and_no_key_is_repeated() {
        let (certificate, key) = signed(&params(2030));
        let (_, other) = signed(&params(2030));
        let broken = key.replace('M', "!");
        let cases = [
            ("", key.as_str(), "no certificate", false),
            ("nonsense", &key, "no certificate", false),
            (&key, &key, "no certificate", false),
            (&certificate, "", "no private key", true),
            (&certificate, &certificate, "no private key", true),
            (&certificate, &broken, "no private key", true),
            (&certificate, &other, "does not belong", true),
        ];
        for (certificate, key, expected, is_of_key) in cases {
            let error = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.is_of_key(), is_of_key, "{error}");
        }
    }
}
