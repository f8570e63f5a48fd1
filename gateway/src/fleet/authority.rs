//! The fleet's CA: an Ed25519 key, its certificate, and what it signs.
//!
//! Invariants: a certificate says one admission and is of one key; serial numbers are random and never said twice; what is signed
//! for a listener is no admission, and so worth nothing on the data plane.
//! Not here: where the key lies (`table.rs`), who gets a certificate (`admit.rs`).

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use spine::fleet::admission::Admission;
use spine::fleet::revocation::{self, Revocations, SignedRevocations};
use spine::id::{FleetId, NodeId, UnixMs};
use spine::wire::admission::SERVER_NAME;
use std::fmt;
use std::time::Duration;

/// Clocks of a fleet may differ by this much, or by a tenth of a certificate's life where that is less.
const SKEW: Duration = Duration::from_secs(15 * 60);
/// The CA's own certificate ends after this: twenty years.
const LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
const SERIAL_BYTES: usize = 16;

/// Why the CA cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the CA does not sign. what=`{what}`, reason=`{reason}`")]
    Sign { what: &'static str, reason: String },
    /// The key file is another fleet's, or damaged.
    #[error("the CA's key does not serve. reason=`{reason}`")]
    Key { reason: String },
}

fn failed<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> AuthorityError {
    move |error| AuthorityError::Sign { what, reason: error.to_string() }
}

/// SHA-256 of a CA's certificate: how an invitation names it.
pub fn fingerprint(authority: &[u8]) -> [u8; 32] {
    Sha256::digest(authority).into()
}

/// The CA with its key.
pub struct Authority {
    fleet: FleetId,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.fleet)
    }
}

/// A node's certificate as it was signed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// DER.
    pub certificate: Bytes,
    pub serial: Bytes,
    pub not_after: UnixMs,
}

/// The node's key as the subject of a certificate.
struct Subject(NodeId);

impl PublicKeyData for Subject {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl Authority {
    /// A new CA for `fleet`.
    pub fn create(fleet: FleetId, now: UnixMs) -> Result<Authority, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed("a new key"))?;
        let mut params = own(fleet);
        set_days(&mut params, now, LIFE);
        params.serial_number = Some(serial()?);
        let certificate = params.self_signed(&key).map_err(failed("the CA's certificate"))?.der().clone();
        Ok(Authority { fleet, issuer: Issuer::new(own(fleet), key), certificate })
    }

    /// The CA of `fleet` from what [`Authority::key`] and [`Authority::certificate`] gave.
    ///
    /// # Errors
    /// [`AuthorityError::Key`] also if the key is not the certificate's.
    pub fn open(fleet: FleetId, key: &[u8], certificate: &[u8]) -> Result<Authority, AuthorityError> {
        let bad = |reason: String| AuthorityError::Key { reason };
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &PKCS_ED25519).map_err(|e| bad(e.to_string()))?;
        let authority = Authority { fleet, issuer: Issuer::new(own(fleet), key), certificate: CertificateDer::from(certificate.to_vec()) };
        let trust = spine::fleet::trust::Trust::new(fleet, certificate).map_err(|e| bad(e.to_string()))?;
        // Whoever can sign a list that the certificate vouches for has its key.
        let list = Revocations { fleet, version: 1, nodes: Vec::new() };
        trust.revoke(&authority.revoke(&list)?).map_err(|_| bad("it is not the key of the fleet's certificate".into()))?;
        Ok(authority)
    }

    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's key, PKCS#8. To be wrapped before it is written anywhere.
    pub fn key(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// A certificate that says `admission` of `node`, from `now` on for `life`.
    pub fn certify(&self, node: NodeId, admission: &Admission, now: UnixMs, life: Duration) -> Result<Issued, AuthorityError> {
        let uri = admission.to_uri().map_err(failed("an admission"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&node.to_string());
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(failed("an admission"))?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_days(&mut params, now, life);
        let serial = serial()?;
        params.serial_number = Some(serial.clone());
        let signed = params.signed_by(&Subject(node), &self.issuer).map_err(failed("a node's certificate"))?;
        let not_after = u64::try_from(params.not_after.unix_timestamp()).unwrap_or(0).saturating_mul(1_000);
        Ok(Issued { certificate: signed.der().to_vec().into(), serial: serial.to_bytes().into(), not_after: UnixMs(not_after) })
    }

    /// A new key that `admission` is said of: a gateway's own. Certificate (DER) and key.
    pub fn for_gateway(
        &self,
        admission: &Admission,
        now: UnixMs,
        life: Duration,
    ) -> Result<(Bytes, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed("a new key"))?;
        let node = key.public_key_raw().try_into().map_err(|_| failed("a new key")("it is not 32 bytes"))?;
        let issued = self.certify(NodeId(node), admission, now, life)?;
        Ok((issued.certificate, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()))))
    }

    /// Chain and key of an admission listener; the key is made here and lives as long as the listener.
    pub fn for_listener(
        &self,
        now: UnixMs,
        life: Duration,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed("a new key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(SERVER_NAME);
        params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.to_string().try_into().map_err(failed("a name"))?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_days(&mut params, now, life);
        params.serial_number = Some(serial()?);
        let signed = params.signed_by(&key, &self.issuer).map_err(failed("a listener's certificate"))?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((vec![signed.der().clone(), self.certificate.clone()], key))
    }

    /// The list, signed, as it travels.
    pub fn revoke(&self, list: &Revocations) -> Result<Bytes, AuthorityError> {
        let list = list.encode().map_err(failed("a revocation list"))?;
        let signature = self.issuer.key().sign(&revocation::message(&list)).map_err(failed("a revocation list"))?;
        SignedRevocations { list, signature: signature.into() }.encode().map_err(failed("a revocation list"))
    }
}

/// What is the same in every opening of a fleet's CA: certificates name it as their issuer.
fn own(fleet: FleetId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Breakwater fleet {fleet}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut out = DistinguishedName::new();
    out.push(DnType::CommonName, name);
    out
}

/// From a little before `now`, for clocks that are behind, to `life` after it.
fn set_days(params: &mut CertificateParams, now: UnixMs, life: Duration) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.0 / 1_000);
    params.not_before = now - SKEW.min(life / 10);
    params.not_after = now + life;
}

fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; SERIAL_BYTES];
    getrandom::fill(&mut bytes).map_err(failed("a serial number"))?;
    // Positive and without leading zeros: its DER has one length.
    bytes[0] = bytes[0] & 0x7F | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::UnixTime;
    use spine::fleet::admission::Role;
    use spine::fleet::trust::{Refusal, Trust};

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const FLEET: FleetId = FleetId([3; 16]);

    fn admission() -> Admission {
        let address = Some("127.0.0.1:7400".to_string());
        Admission { fleet: FLEET, role: Role::StorageNode, machine: "m".into(), zone: "z".into(), capacity: 1, address }
    }

    fn at(ms: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(ms))
    }

    #[test]
    fn what_a_reopened_ca_signs_is_believed_for_its_life() {
        let made = Authority::create(FLEET, NOW).unwrap();
        let ca = Authority::open(FLEET, &made.key(), made.certificate()).unwrap();
        let key = storage_node::NodeKey::generate().unwrap();
        let issued = ca.certify(key.node(), &admission(), NOW, Duration::from_secs(3_600)).unwrap();
        let trust = Trust::new(FLEET, made.certificate()).unwrap();
        let judge =
            |ms: u64| trust.judge(&CertificateDer::from(issued.certificate.as_ref()), &[], at(ms), &[Role::StorageNode], Some(key.node()));
        let said = judge(NOW.0).unwrap();
        assert_eq!((said.admission, said.serial), (admission(), issued.serial.to_vec()));
        assert_eq!(issued.not_after, UnixMs(NOW.0 + 3_600_000));
        judge(NOW.0 - 300_000).unwrap();
        assert_eq!(judge(NOW.0 + 3_601_000), Err(Refusal::Expired));
        assert_eq!(judge(NOW.0 - 3_600_000), Err(Refusal::NotYet));
    }

    #[test]
    fn a_listeners_certificate_admits_nobody_to_the_data_plane() {
        let ca = Authority::create(FLEET, NOW).unwrap();
        let (chain, _) = ca.for_listener(NOW, Duration::from_secs(60)).unwrap();
        let trust = Trust::new(FLEET, ca.certificate()).unwrap();
        assert!(matches!(trust.judge(&chain[0], &[], at(NOW.0), &[Role::StorageNode, Role::Gateway], None), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn another_fleets_key_does_not_open_this_ca() {
        let (one, other) = (Authority::create(FLEET, NOW).unwrap(), Authority::create(FLEET, NOW).unwrap());
        assert!(matches!(Authority::open(FLEET, &other.key(), one.certificate()), Err(AuthorityError::Key { .. })));
        assert!(matches!(Authority::open(FLEET, b"x", one.certificate()), Err(AuthorityError::Key { .. })));
    }
}
