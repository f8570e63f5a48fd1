//! Reading a certificate: whose key, what admission, which days. Nothing here says that it is to be believed: [`super::trust`] does.

use super::admission::{Admission, AdmissionError};
use crate::id::NodeId;
use crate::limit::CERTIFICATE_BYTES;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// SubjectPublicKeyInfo of an Ed25519 key, up to the key (RFC 8410).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The subject's public key.
    pub node: NodeId,
    pub admission: Admission,
    /// Big-endian, as it stands in the certificate.
    pub serial: Vec<u8>,
    /// Seconds since the epoch, both ends included.
    pub not_before: i64,
    pub not_after: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("longer than {CERTIFICATE_BYTES} bytes")]
    TooLong,
    #[error("not one X.509 certificate")]
    Form,
    #[error("the key is not Ed25519")]
    Key,
    #[error("the names are not one URI alone")]
    Names,
    #[error("the admission does not read: {0}")]
    Admission(#[from] AdmissionError),
}

/// What the certificate in `der` says of its subject.
pub fn read(der: &[u8]) -> Result<Certified, CertificateError> {
    let certificate = parse(der)?;
    let node = NodeId(ed25519_key(certificate.public_key().raw)?);
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Names)?.ok_or(CertificateError::Names)?;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else { return Err(CertificateError::Names) };
    let validity = certificate.validity();
    Ok(Certified {
        node,
        admission: uri.parse()?,
        serial: certificate.raw_serial().to_vec(),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

/// The Ed25519 key of a CA's certificate.
pub(super) fn key_of(der: &[u8]) -> Result<[u8; 32], CertificateError> {
    ed25519_key(parse(der)?.public_key().raw)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    if der.len() > CERTIFICATE_BYTES {
        return Err(CertificateError::TooLong);
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Form),
    }
}

fn ed25519_key(spki: &[u8]) -> Result<[u8; 32], CertificateError> {
    let key = spki.strip_prefix(&ED25519_SPKI[..]).ok_or(CertificateError::Key)?;
    key.try_into().map_err(|_| CertificateError::Key)
}
