//! The certificate of the webhooks: made by an authority of the operator's own, kept in a Secret, renewed in time.
//!
//! A new authority is made known to the API servers, beside the old one, minutes before anything is signed with it: no
//! request ever meets a certificate that its bundle does not cover.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use yasna::{parse_der, tags::TAG_UTCTIME};

/// How long an authority is good for, and how long before its end it is succeeded.
const AUTHORITY: (SignedDuration, SignedDuration) = (days(3650), days(365));
/// What is told of it: it ends at the start of the day.
const AUTHORITY_LASTS: SignedDuration = days(3649);
/// The same of a certificate.
const CERTIFICATE: (SignedDuration, SignedDuration) = (days(365), days(120));
/// How long it may take until every API server of the control plane knows a new authority.
const SPREAD: SignedDuration = SignedDuration::from_mins(5);
/// Clocks of the nodes may differ by this much.
const SKEW: SignedDuration = days(1);

const fn days(number: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * number)
}

/// What the Secret holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Certificates of the authorities that the API server is to trust, in PEM, the newest first.
    pub bundle: String,
    /// Key of the newest authority, in PEM.
    pub authority_key: String,
    /// When the newest authority ends.
    pub authority_ends: Timestamp,
    /// The webhooks' certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
    /// When it ends.
    pub ends: Timestamp,
    /// Whether it was signed by the newest authority.
    pub is_current: bool,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material")
            .field("authority_ends", &self.authority_ends)
            .field("ends", &self.ends)
            .field("is_current", &self.is_current)
            .finish_non_exhaustive()
    }
}

/// What is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Everything.
    All,
    /// An authority that succeeds the present one, which stays in the bundle.
    Authority,
    /// A certificate, signed by the newest authority.
    Certificate,
}

/// What has to be made now. `is_published`: whether the API server trusts the whole bundle.
#[must_use]
pub fn need(material: Option<&Material>, is_published: bool, now: Timestamp) -> Option<Need> {
    let Some(material) = material else { return Some(Need::All) };
    let due = |ends: Timestamp, before: SignedDuration| ends.duration_since(now) <= before;
    if due(material.ends, SignedDuration::ZERO) || due(material.authority_ends, SignedDuration::ZERO) {
        return Some(Need::All);
    }
    if due(material.authority_ends, AUTHORITY.1) && material.is_current {
        return Some(Need::Authority);
    }
    let outdated = !material.is_current || due(material.ends, CERTIFICATE.1);
    // A clock that was set back draws nothing out.
    let is_spreading = !material.is_current && (material.made_known()..material.is_known()).contains(&now);
    (outdated && is_published && !is_spreading).then_some(Need::Certificate)
}

impl Material {
    /// When the newest authority was made, and so came into the bundle.
    fn made_known(&self) -> Timestamp {
        self.authority_ends.checked_sub(AUTHORITY_LASTS).unwrap_or(self.authority_ends)
    }

    /// When every API server knows it.
    fn is_known(&self) -> Timestamp {
        self.made_known().checked_add(SPREAD).unwrap_or(self.authority_ends)
    }
}

/// When [`need`] may answer differently, though nothing else has changed.
#[must_use]
pub fn next_need(material: &Material) -> Timestamp {
    let due = |ends: Timestamp, before: SignedDuration| ends.checked_sub(before).unwrap_or(ends);
    let next = due(material.ends, CERTIFICATE.1).min(due(material.authority_ends, AUTHORITY.1));
    if material.is_current { next } else { next.min(material.is_known()) }
}

/// Makes what is needed.
///
/// # Errors
/// When the key in the Secret is none, or no key can be made.
pub fn issue(
    need: Need,
    material: Option<&Material>,
    names: &[String],
    now: Timestamp,
) -> Result<Material, rcgen::Error> {
    match (need, material) {
        (Need::Certificate, Some(material)) => sign(material.clone(), names, now),
        (Need::Authority, Some(before)) => {
            let (authority, key, authority_ends) = authority(now)?;
            Ok(Material {
                bundle: format!("{authority}{}", first_certificate(&before.bundle)),
                authority_key: key,
                authority_ends,
                is_current: false,
                ..before.clone()
            })
        }
        _ => {
            let (bundle, authority_key, authority_ends) = authority(now)?;
            let nothing = Material {
                bundle,
                authority_key,
                authority_ends,
                certificate: String::new(),
                key: String::new(),
                ends: now,
                is_current: false,
            };
            sign(nothing, names, now)
        }
    }
}

/// Of a bundle of several, the newest.
fn first_certificate(bundle: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.find(END).map_or(bundle, |at| &bundle[..at + END.len()])
}

fn params(
    names: Vec<String>,
    name: &str,
    now: Timestamp,
    lasts: SignedDuration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let (year, month, day) = date(now.checked_sub(SKEW).unwrap_or(now));
    params.not_before = date_time_ymd(year, month, day);
    let (year, month, day) = date(now.checked_add(lasts).unwrap_or(now));
    params.not_after = date_time_ymd(year, month, day);
    Ok(params)
}

fn date(time: Timestamp) -> (i32, u8, u8) {
    let date = time.to_zoned(TimeZone::UTC).date();
    (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
}

fn authority_params(now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(Vec::new(), "metallb-operator webhook authority", now, AUTHORITY.0)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Certificate and key of a new authority in PEM, and when it ends.
fn authority(now: Timestamp) -> Result<(String, String, Timestamp), rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = authority_params(now)?.self_signed(&key)?;
    let ends = now.checked_add(AUTHORITY_LASTS).unwrap_or(now);
    Ok((certificate.pem(), key.serialize_pem(), ends))
}

fn sign(material: Material, names: &[String], now: Timestamp) -> Result<Material, rcgen::Error> {
    let common_name = names.first().map_or("webhook", String::as_str);
    let mut params = params(names.to_vec(), common_name, now, CERTIFICATE.0)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::new(authority_params(now)?, KeyPair::from_pem(&material.authority_key)?);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Material {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        ends: now.checked_add(CERTIFICATE.0 - days(1)).unwrap_or(now),
        is_current: true,
        ..material
    })
}

/// When the first certificate of a chain in PEM ends (RFC 5280 §4.1.2.5); `None` when it is none.
#[must_use]
pub fn ends(chain: &str) -> Option<Timestamp> {
    let certificate = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    let parts = |der: &[u8]| parse_der(der, |reader| reader.collect_sequence_of(|part| part.read_der())).ok();
    let signed = parts(&certificate)?.into_iter().next()?;
    // Behind the version, which only the first version of certificates leaves out: serial number, algorithm, issuer.
    let is_version = |der: &Vec<u8>| der.first() == Some(&0xa0);
    let validity = parts(&signed)?.into_iter().skip_while(is_version).nth(3)?;
    let end = parts(&validity)?.into_iter().nth(1)?;
    let seconds = parse_der(&end, |reader| match reader.lookahead_tag()? {
        TAG_UTCTIME => Ok(reader.read_utctime()?.datetime().unix_timestamp()),
        _ => Ok(reader.read_generalized_time()?.datetime().unix_timestamp()),
    });
    Timestamp::from_second(seconds.ok()?).ok()
}

/// Names under which the API server asks for Service `service`.
#[must_use]
pub fn names(service: &str, namespace: &str) -> Vec<String> {
    let name = format!("{service}.{namespace}.svc");
    vec![name.clone(), format!("{name}.cluster.local")]
}

impl Material {
    /// As the Secret holds it.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, String> {
        let end = |time: Timestamp| time.to_string();
        [
            ("ca.crt", self.bundle.clone()),
            ("ca.key", self.authority_key.clone()),
            ("ca.end", end(self.authority_ends)),
            ("tls.crt", self.certificate.clone()),
            ("tls.key", self.key.clone()),
            ("tls.end", end(self.ends)),
            ("tls.current", self.is_current.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// From what the Secret holds; `None` when something is missing or unreadable.
    #[must_use]
    pub fn from_data(data: &BTreeMap<String, String>) -> Option<Self> {
        let text = |key: &str| data.get(key).filter(|value| !value.is_empty()).cloned();
        Some(Self {
            bundle: text("ca.crt")?,
            authority_key: text("ca.key")?,
            authority_ends: text("ca.end")?.parse().ok()?,
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
            ends: text("tls.end")?.parse().ok()?,
            is_current: text("tls.current")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{ServerName, UnixTime},
    };
    use std::{sync::Arc, time::Duration};

    const SERVICE: &str = "metallb-operator-webhook-service";

    fn at(day: i64) -> Timestamp {
        let start: Timestamp = "2030-06-01T12:00:00Z".parse().unwrap();
        start.checked_add(days(day)).unwrap()
    }

    fn issue_at(need: Need, material: Option<&Material>, day: i64) -> Material {
        issue(need, material, &names(SERVICE, "metallb-system"), at(day)).unwrap()
    }

    /// Whether a client that trusts `bundle` accepts the certificate of `material` on `day`.
    fn is_trusted(material: &Material, bundle: &str, day: i64) -> bool {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let certificate = CertificateDer::from_pem_slice(material.certificate.as_bytes()).unwrap();
        let name = ServerName::try_from(format!("{SERVICE}.metallb-system.svc")).unwrap();
        let seconds = u64::try_from(at(day).as_second()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        verifier.verify_server_cert(&certificate, &[], &name, &[], now).is_ok()
    }

    #[test]
    fn what_is_made_is_trusted_for_as_long_as_it_says() {
        let material = issue_at(Need::All, None, 0);
        assert!(is_trusted(&material, &material.bundle, 0));
        assert!(is_trusted(&material, &material.bundle, -1), "clocks differ");
        assert!(is_trusted(&material, &material.bundle, 363));
        assert!(!is_trusted(&material, &material.bundle, 366));
        let other = issue_at(Need::All, None, 0);
        assert!(!is_trusted(&material, &other.bundle, 0), "another authority");
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_of_its_forms() {
        let midnight = |text: &str| Some(text.parse().unwrap());
        let material = issue_at(Need::All, None, 0);
        assert_eq!(ends(&material.certificate), midnight("2031-06-01T00:00:00Z"));
        // From 2050 on, the year has four digits.
        let late = issue_at(Need::All, None, 20 * 365);
        assert_eq!(ends(&late.certificate), midnight("2051-05-27T00:00:00Z"));
        assert_eq!(ends("none"), None);
        assert_eq!(ends(&material.certificate.replace("MII", "AII")), None);
    }

    #[test]
    fn nothing_is_made_before_it_is_due_nor_before_the_api_server_trusts_it() {
        let material = issue_at(Need::All, None, 0);
        assert_eq!(need(None, true, at(0)), Some(Need::All));
        assert_eq!(need(Some(&material), true, at(0)), None);
        assert_eq!(need(Some(&material), true, at(243)), None);
        assert_eq!(need(Some(&material), true, at(244)), Some(Need::Certificate));
        assert_eq!(need(Some(&material), false, at(244)), None);
        assert_eq!(need(Some(&material), false, at(364)), Some(Need::All), "too late for patience");
        assert_eq!(next_need(&material), at(244));
    }

    #[test]
    fn a_succession_of_authorities_leaves_no_gap() {
        let mut material = issue_at(Need::All, None, 0);
        let mut trusted = material.bundle.clone();
        let mut successions = 0;
        for day in 0..8000 {
            let is_published = trusted == material.bundle;
            if let Some(need) = need(Some(&material), is_published, at(day)) {
                assert_ne!(need, Need::All, "day {day}");
                successions += usize::from(need == Need::Authority);
                material = issue_at(need, Some(&material), day);
                assert!(is_trusted(&material, &trusted, day), "day {day}: before the bundle is published");
            } else {
                trusted.clone_from(&material.bundle);
            }
            if day % 50 == 0 {
                assert!(is_trusted(&material, &trusted, day), "day {day}");
            }
        }
        assert_eq!(successions, 2);
    }

    #[test]
    fn nothing_is_signed_by_an_authority_before_every_api_server_may_know_it() {
        let first = issue_at(Need::All, None, 0);
        let second = issue_at(Need::Authority, Some(&first), 3300);
        let later = |seconds| at(3300).checked_add(SignedDuration::from_secs(seconds)).unwrap();
        assert_eq!(need(Some(&second), true, later(0)), Some(Need::All), "its certificate has ended");
        let second = Material { ends: at(3400), ..second };
        for (seconds, want) in
            [(0, None), (299, None), (300, Some(Need::Certificate)), (-1, Some(Need::Certificate))]
        {
            assert_eq!(need(Some(&second), true, later(seconds)), want, "{seconds} s");
        }
        assert_eq!(need(Some(&second), false, later(300)), None, "not published");
        assert_eq!(next_need(&Material { ends: at(3500), ..second }), later(300));
    }

    #[test]
    fn the_secret_reads_back_and_anything_missing_is_noticed() {
        let material = issue_at(Need::All, None, 0);
        let data = material.to_data();
        assert_eq!(Material::from_data(&data), Some(material.clone()));
        for key in data.keys() {
            let mut broken = data.clone();
            broken.insert(key.clone(), String::new());
            assert_eq!(Material::from_data(&broken), None, "{key}");
        }
        assert!(!format!("{material:?}").contains("PRIVATE"));
        let unusable = Material { authority_key: "none".to_owned(), ..material };
        assert!(issue(Need::Certificate, Some(&unusable), &[], at(0)).is_err());
    }
}
