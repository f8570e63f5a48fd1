//! TLS for the S3 listener: rustls with aws-lc-rs, certificates in PEM files.

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Why the certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the file cannot be read. path=`{path}`, reason=`{reason}`")]
    Read { path: String, reason: String },
    #[error("the file holds no {what} in PEM form. path=`{path}`")]
    Empty { path: String, what: &'static str },
    #[error("the certificate and its key do not serve. cert=`{cert}`, key=`{key}`, reason=`{reason}`")]
    Unusable { cert: String, key: String, reason: String },
}

/// Loads a certificate chain, leaf first, and its private key (PKCS#8, PKCS#1 or SEC1).
///
/// HTTP/1.1 is all that is offered: HTTP/2 costs two to eight times the CPU for the same bytes.
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(cert)?;
    let private = private_key(key)?;
    let unusable = |error: rustls::Error| TlsError::Unusable { cert: shown(cert), key: shown(key), reason: error.to_string() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unusable)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut file = open(path)?;
    let chain: Result<Vec<_>, _> = rustls_pemfile::certs(&mut file).collect();
    let chain = chain.map_err(|error| TlsError::Read { path: shown(path), reason: error.to_string() })?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: shown(path), what: "certificate" });
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let mut file = open(path)?;
    let key = rustls_pemfile::private_key(&mut file).map_err(|error| TlsError::Read { path: shown(path), reason: error.to_string() })?;
    key.ok_or_else(|| TlsError::Empty { path: shown(path), what: "private key" })
}

fn open(path: &Path) -> Result<BufReader<File>, TlsError> {
    File::open(path).map(BufReader::new).map_err(|error| TlsError::Read { path: shown(path), reason: error.to_string() })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
