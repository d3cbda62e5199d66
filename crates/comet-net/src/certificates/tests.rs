//! Certificate and key files that can be used, and files that cannot.

use std::fs;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::*;

/// A temporary folder, removed on drop.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("comet-net-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Files of a fresh certificate for `names`, and of its key.
    pub(crate) fn pair(&self, names: &[&str]) -> (PathBuf, PathBuf) {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let file = names[0].replace('*', "any");
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        let chain = self.write(&format!("{file}.pem"), &cert.pem());
        (chain, self.write(&format!("{file}.key"), &signing_key.serialize_pem()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn options(pairs: &[(PathBuf, PathBuf)], min_version: TlsVersion) -> TlsOptions {
    TlsOptions { pairs: pairs.to_vec(), min_version }
}

#[test]
fn errors_name_the_file_and_its_fault() {
    let folder = Folder::new();
    let good = folder.pair(&["a.example"]);
    let other = folder.pair(&["b.example"]);
    let check = |chain: &PathBuf, key: &PathBuf, file: &PathBuf, what: &str| {
        let pairs = [good.clone(), (chain.clone(), key.clone())];
        let errors = Tls::load(&options(&pairs, TlsVersion::V1_2)).unwrap_err();
        let error = errors.last().unwrap();
        assert_eq!((error.pair, error.is_key), (1, file == key), "{error}");
        assert_eq!(&error.file, file, "{error}");
        assert!(error.what.starts_with(what), "{error}");
        assert_eq!(error.to_string(), format!("{} {}", file.display(), error.what));
    };
    let missing = folder.0.join("missing.pem");
    let empty = folder.write("empty.pem", "");
    let prose = folder.write("prose.pem", "This is no certificate.\n");
    let begin = "-----BEGIN CERTIFICATE-----\n";
    let cut = folder.write("cut.pem", begin);
    let base64 = folder.write("base64.pem", &format!("{begin}!!!\n-----END CERTIFICATE-----\n"));
    let der = folder.write("der.pem", &format!("{begin}AAAA\n-----END CERTIFICATE-----\n"));
    let key_der = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let key_der = folder.write("der.key", key_der);

    check(&missing, &good.1, &missing, "cannot be read: ");
    check(&empty, &good.1, &empty, "holds no certificate in PEM form");
    check(&prose, &good.1, &prose, "holds no certificate in PEM form");
    check(&cut, &good.1, &cut, "is not PEM: ");
    check(&base64, &good.1, &base64, "is not PEM: ");
    check(&der, &good.1, &der, "holds no usable certificate: ");
    check(&good.0, &missing, &missing, "cannot be read: ");
    check(&good.0, &prose, &prose, "holds no private key in PEM form");
    check(&good.0, &key_der, &key_der, "holds no usable private key: ");
    let sentence = format!("is not the key of the certificate in {}", good.0.display());
    check(&good.0, &other.1, &other.1, &sentence);
}

#[test]
fn all_faults_are_found_at_once() {
    let folder = Folder::new();
    let good = folder.pair(&["a.example"]);
    let other = folder.pair(&["b.example"]);
    let missing = (folder.0.join("missing.pem"), folder.0.join("missing.key"));
    let pairs = [missing.clone(), good.clone(), (good.0, other.1.clone())];
    let errors = Tls::load(&options(&pairs, TlsVersion::V1_2)).unwrap_err();
    let places: Vec<_> =
        errors.into_iter().map(|error| (error.pair, error.is_key, error.file)).collect();
    assert_eq!(places, [(0, false, missing.0), (0, true, missing.1), (2, true, other.1)]);
}

#[test]
fn a_failed_reload_changes_nothing() {
    let folder = Folder::new();
    let good = folder.pair(&["a.example"]);
    let tls = Tls::load(&options(std::slice::from_ref(&good), TlsVersion::V1_2)).unwrap();
    let before = tls.config(Transport::Tcp);
    let bad = (good.0.clone(), good.0.clone());
    tls.reload(&options(&[good.clone(), bad], TlsVersion::V1_2)).unwrap_err();
    assert!(Arc::ptr_eq(&before, &tls.config(Transport::Tcp)));
    let certificates = tls.certificates();
    tls.reload(&options(&[good], TlsVersion::V1_3)).unwrap();
    assert!(!Arc::ptr_eq(&before, &tls.config(Transport::Tcp)));
    assert_eq!(tls.certificates(), certificates);
}
