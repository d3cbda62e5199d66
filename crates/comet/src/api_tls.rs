//! TLS of the APIs, from the configuration.

use comet_config::{ApiTls as Section, Config};
use comet_ops::Certificate;
use comet_serve::{ApiTls, Renewal, TlsError, TlsFiles, is_tls};

/// Reads the files for the server.
///
/// # Errors
/// As a sentence: the key and the file that cannot be used.
pub fn load(config: &Config) -> Result<ApiTls, String> {
    read(&config.api_tls, config.logic.addrs.iter())
}

/// Reads the files for `comet logic`.
///
/// # Errors
/// As for [`load`].
pub fn load_for_logic(config: &Config) -> Result<ApiTls, String> {
    read(&config.api_tls, config.logic_server.comets.iter().map(|(_, address)| address))
}

/// Reads the files again.
///
/// # Errors
/// As for [`load`].
pub(crate) fn renew(tls: &ApiTls, config: &Config) -> Result<Renewal, String> {
    tls.renew(&files(&config.api_tls)).map_err(|error| sentence(&error))
}

/// The certificate that callers are shown, `der`, which is that of the file in `config`.
pub(crate) fn certificate(der: Option<Vec<u8>>, config: &Config) -> Option<Certificate> {
    let file = config.api_tls.certificate.clone()?;
    Certificate::read("api_tls.certificate".to_owned(), file, der?)
}

fn read<'a>(
    section: &Section,
    mut called: impl Iterator<Item = &'a String>,
) -> Result<ApiTls, String> {
    let calls = called.any(|address| is_tls(address));
    ApiTls::load(&files(section), calls).map_err(|error| sentence(&error))
}

fn files(section: &Section) -> TlsFiles {
    let Section { certificate, key, client_ca, server_ca } = section.clone();
    TlsFiles { certificate, key, client_ca, server_ca }
}

fn sentence(error: &TlsError) -> String {
    format!("api_tls.{}: {error}", error.field)
}
