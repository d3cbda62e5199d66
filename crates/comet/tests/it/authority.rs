//! Certificates of an authority that a test makes.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};

use crate::unix_sockets::Folder;

/// An authority, and the files of what it signed, gone with the value.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: Folder,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = Folder::new();
        fs::write(folder.file("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The certificate of the authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.file("ca.pem")
    }

    /// Certificate and key of `name`, for 127.0.0.1, made anew.
    pub(crate) fn sign(&self, name: &str) -> [PathBuf; 2] {
        self.sign_until(name, (4096, 1, 1))
    }

    /// The same, valid until that day (year, month, day).
    pub(crate) fn sign_until(&self, name: &str, end: (i32, u8, u8)) -> [PathBuf; 2] {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        self.write(name, &params)
    }

    /// Certificate and key of a caller with the common name `subject`, in files called `name`.
    pub(crate) fn sign_caller(&self, name: &str, subject: &str) -> [PathBuf; 2] {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        self.write(name, &params)
    }

    fn write(&self, name: &str, params: &CertificateParams) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = ["pem", "key"].map(|kind| self.folder.file(&format!("{name}.{kind}")));
        fs::write(&files[0], certificate.pem()).unwrap();
        fs::write(&files[1], key.serialize_pem()).unwrap();
        files
    }

    /// The settings that show the certificate of `name`.
    pub(crate) fn sets(&self, name: &str) -> [String; 2] {
        let [certificate, key] = self.sign(name);
        [
            format!("api_tls.certificate={:?}", certificate.to_str().unwrap()),
            format!("api_tls.key={:?}", key.to_str().unwrap()),
        ]
    }

    /// The setting that names it as the authority of callers (`client_ca`) or of servers (`server_ca`).
    pub(crate) fn trusted(&self, key: &str) -> String {
        format!("api_tls.{key}={:?}", self.ca().to_str().unwrap())
    }
}
