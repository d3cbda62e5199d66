//! The certificates that the process shows its peers: their names and dates, for logs and metrics.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::exposition::{Exposition, Kind};

/// How long before its end a certificate causes a warning.
const WARNED_BEFORE: SignedDuration = SignedDuration::from_hours(21 * 24);

/// A certificate from a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    setting: String,
    file: PathBuf,
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    der: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate of `setting`, like `tls.certificates[0]`. `None` if its dates cannot be read, or are after
    /// the year 9999.
    #[must_use]
    pub fn read(setting: String, file: PathBuf, der: Vec<u8>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let validity = certificate.validity();
        let [not_before, not_after] = [validity.not_before, validity.not_after]
            .map(|time| Timestamp::from_second(time.timestamp()).ok());
        let names = names(&certificate);
        Some(Self { setting, file, names, not_before: not_before?, not_after: not_after?, der })
    }

    /// The key of the configuration that names its file, and the index there.
    #[must_use]
    pub fn setting(&self) -> &str {
        &self.setting
    }

    /// A sentence if peers refuse it now, or soon will.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.warning_at(Timestamp::now())
    }

    fn warning_at(&self, now: Timestamp) -> Option<String> {
        let Self { setting, file, not_before, not_after, .. } = self;
        let file = file.display();
        if now < *not_before {
            return Some(format!(
                "{setting}: {file} is not valid before {not_before}: peers refuse it until then"
            ));
        }
        if now > *not_after {
            return Some(format!(
                "{setting}: {file} has expired at {not_after}: peers refuse it; renew it, and send SIGHUP"
            ));
        }
        (not_after.duration_since(now) < WARNED_BEFORE).then(|| {
            format!("{setting}: {file} expires at {not_after}: renew it before, and send SIGHUP")
        })
    }
}

/// Its names and its end.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, not_after, .. } = self;
        write!(f, "certificate of {}, valid until {not_after}", names.join(", "))
    }
}

/// The names by which clients may know the server (RFC 6125, section 6.4: the subject counts only if there are no
/// others).
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|names| &names.value.general_names);
    let names: Vec<String> = alternatives
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => Some(match **bytes {
                [a, b, c, d] => std::net::Ipv4Addr::new(a, b, c, d).to_string(),
                ref bytes => {
                    std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()
                }
            }),
            _ => None,
        })
        .collect();
    if names.is_empty() { vec![certificate.subject().to_string()] } else { names }
}

/// The certificates in use.
#[derive(Debug, Default)]
pub struct CertificatesInUse(Mutex<Vec<Certificate>>);

impl CertificatesInUse {
    /// Replaces them all. Returns those that were not in use before.
    pub fn replace(&self, newer: Vec<Certificate>) -> Vec<Certificate> {
        let mut current = self.current();
        let was_in_use =
            |newer: &Certificate| current.iter().any(|current| current.der == newer.der);
        let fresh = newer.iter().filter(|newer| !was_in_use(newer)).cloned().collect();
        *current = newer;
        fresh
    }

    /// Logs which certificates peers refuse now, or soon will.
    pub fn warn(&self) {
        let warnings: Vec<_> = self.current().iter().filter_map(Certificate::warning).collect();
        for warning in warnings {
            log::warn!("{warning}");
        }
    }

    /// Adds the end of each to a page.
    pub fn expose(&self, page: &mut Exposition) {
        let help = "When a certificate expires, in seconds since 1970, by its file.";
        let name = "comet_tls_certificate_expiry_timestamp_seconds";
        let mut family = page.family(name, Kind::Gauge, help);
        let current = self.current();
        let mut shown: Vec<&Certificate> = Vec::new();
        for certificate in current.iter() {
            if shown.iter().all(|earlier| earlier.file != certificate.file) {
                let end = u64::try_from(certificate.not_after.as_second()).unwrap_or(0);
                family.labelled(&[("file", &certificate.file.display())], end);
                shown.push(certificate);
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, Vec<Certificate>> {
        self.0.lock().expect("nothing panics between lock and unlock")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(names: &[&str], from: i32, until: i32) -> Certificate {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Certificate::read("tls.certificates[0]".to_owned(), "c.pem".into(), der).unwrap()
    }

    #[test]
    fn certificates_are_warned_of_before_they_expire() {
        let certificate = certificate(&["a.example"], 2030, 2031);
        let check = |now: &str, expected: Option<&str>| {
            let warning = certificate.warning_at(now.parse().unwrap());
            let expected = expected.map(|text| format!("tls.certificates[0]: c.pem {text}"));
            assert_eq!(warning, expected, "{now}");
        };
        let early = "is not valid before 2030-01-01T00:00:00Z: peers refuse it until then";
        let soon = "expires at 2031-01-01T00:00:00Z: renew it before, and send SIGHUP";
        let late =
            "has expired at 2031-01-01T00:00:00Z: peers refuse it; renew it, and send SIGHUP";
        check("2029-12-31T23:59:59Z", Some(early));
        check("2030-01-01T00:00:00Z", None);
        check("2030-12-11T00:00:00Z", None);
        check("2030-12-11T00:00:01Z", Some(soon));
        check("2031-01-01T00:00:00Z", Some(soon));
        check("2031-01-01T00:00:01Z", Some(late));
    }

    #[test]
    fn names_are_those_that_clients_ask_for() {
        let check = |names: &[&str], shown: &str| {
            let text = certificate(names, 2030, 2031).to_string();
            let end = "valid until 2031-01-01T00:00:00Z";
            assert_eq!(text, format!("certificate of {shown}, {end}"));
        };
        check(
            &["a.example", "*.b.example", "192.0.2.1", "2001:db8::1"],
            "a.example, *.b.example, 192.0.2.1, 2001:db8::1",
        );
        check(&[], "CN=rcgen self signed cert");
    }

    #[test]
    fn new_certificates_are_distinguished_from_known_ones() {
        let [first, second] = [2031, 2032].map(|until| certificate(&["a.example"], 2030, until));
        let in_use = CertificatesInUse::default();
        let once = vec![first.clone()];
        assert_eq!(in_use.replace(once.clone()), once);
        assert_eq!(in_use.replace(once), []);
        assert_eq!(in_use.replace(vec![first, second.clone()]), [second]);
        let mut page = Exposition::default();
        in_use.expose(&mut page);
        let sample = "comet_tls_certificate_expiry_timestamp_seconds{file=\"c.pem\"} 1924992000\n";
        assert!(page.finish().contains(sample));
    }
}
