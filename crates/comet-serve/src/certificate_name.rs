//! The name in a caller's certificate, for the access log.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The subject, in the order of the certificate. Of a certificate without a subject, the alternative names (RFC 5280,
/// section 4.1.2.6). "-": it has neither, or cannot be read.
pub(crate) fn certificate_name(der: &[u8]) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return "-".to_owned() };
    let mut name = subject(certificate.subject());
    if name.is_empty() {
        name = alternatives(&certificate);
    }
    if name.is_empty() { "-".to_owned() } else { name }
}

fn subject(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for attributes in name.iter() {
        for (at, attribute) in attributes.iter().enumerate() {
            let separator = if at > 0 { "+" } else { "," };
            push(&mut text, separator, &kind(attribute), '=', &value(attribute));
        }
    }
    text
}

fn kind(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type();
    oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), str::to_owned)
}

fn value(attribute: &AttributeTypeAndValue<'_>) -> String {
    match attribute.as_str() {
        Ok(text) => text.to_owned(),
        // Values of another type, some of which are text in an encoding of their own.
        Err(_) => String::from_utf8_lossy(attribute.as_slice()).into_owned(),
    }
}

fn alternatives(certificate: &X509Certificate<'_>) -> String {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let mut text = String::new();
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        let (kind, value) = match name {
            GeneralName::DNSName(name) => ("DNS", (*name).to_owned()),
            GeneralName::URI(uri) => ("URI", (*uri).to_owned()),
            GeneralName::RFC822Name(mailbox) => ("email", (*mailbox).to_owned()),
            GeneralName::IPAddress(bytes) => ("IP", address(bytes)),
            _ => continue,
        };
        push(&mut text, ",", kind, ':', &value);
    }
    text
}

fn address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ipv4Addr::from(v4).to_string()
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ipv6Addr::from(v6).to_string()
    } else {
        "-".to_owned()
    }
}

/// Adds a part. Separators inside a value are escaped (as in RFC 4514, section 2.4), so that no value looks like two
/// parts.
fn push(text: &mut String, separator: &str, kind: &str, assigned: char, value: &str) {
    if !text.is_empty() {
        text.push_str(separator);
    }
    write!(text, "{kind}{assigned}").expect("a String takes everything");
    for char in value.chars() {
        if matches!(char, ',' | '+' | '\\') {
            text.push('\\');
        }
        text.push(char);
    }
}

#[cfg(test)]
mod tests {
    use rcgen::string::BmpString;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn name(subject: DistinguishedName, alternatives: Vec<SanType>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.subject_alt_names = alternatives;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        certificate_name(certificate.der())
    }

    #[test]
    fn different_subjects_have_different_names() {
        let check = |parts: &[(DnType, &str)], expected: &str| {
            let mut subject = DistinguishedName::new();
            for (kind, value) in parts {
                subject.push(kind.clone(), *value);
            }
            let alternative = SanType::DnsName("a.example".try_into().unwrap());
            assert_eq!(name(subject, vec![alternative]), expected);
        };
        let (organization, common) = (DnType::OrganizationName, DnType::CommonName);
        check(&[(organization, "Example"), (common.clone(), "job")], "O=Example,CN=job");
        check(&[(common, "job,O=a+b\\")], "CN=job\\,O=a\\+b\\\\");
        check(&[(DnType::CustomDnType(vec![2, 5, 9999]), "x")], "2.5.9999=x");
        check(&[], "DNS:a.example");
    }

    #[test]
    fn a_name_in_any_encoding_is_some_text() {
        let mut subject = DistinguishedName::new();
        let value = BmpString::try_from("job").unwrap();
        subject.push(DnType::CommonName, DnValue::BmpString(value));
        assert_eq!(name(subject, Vec::new()), "CN=\0j\0o\0b");
    }

    #[test]
    fn without_a_subject_it_has_other_names() {
        let none = DistinguishedName::new;
        let names = vec![
            SanType::URI("spiffe://example/job".try_into().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::Rfc822Name("a,b@example".try_into().unwrap()),
        ];
        let expected = "URI:spiffe://example/job,IP:2001:db8::1,IP:192.0.2.1,email:a\\,b@example";
        assert_eq!(name(none(), names), expected);
        assert_eq!(name(none(), Vec::new()), "-");
        assert_eq!(certificate_name(b"no certificate"), "-");
    }
}
