//! TLS of the APIs, from the configuration.

use comet_config::{ApiTls as Section, Config};
use comet_ops::Certificate;
use comet_serve::{ApiTls, TlsError, TlsFiles, TlsReload, is_tls};

/// The process that calls others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CallingProcess {
    /// The server calls logic.
    Comet,
    /// `comet logic` calls comets.
    Logic,
}

impl CallingProcess {
    /// Whether it calls any server over TLS.
    fn calls(self, config: &Config) -> bool {
        match self {
            Self::Comet => config.logic.addrs.iter().any(|address| is_tls(address)),
            Self::Logic => {
                let mut comets = config.logic_server.comets.iter();
                // A comet from discovery may use TLS. For such comets alone the system's authorities are not loaded.
                let may_come =
                    !config.discovery.nodes.is_empty() && config.api_tls.server_ca.is_some();
                may_come || comets.any(|(_, address)| is_tls(address))
            }
        }
    }
}

/// Reads the files.
///
/// # Errors
/// As a sentence: the key and the file that cannot be used.
pub(crate) fn load(config: &Config, caller: CallingProcess) -> Result<ApiTls, String> {
    let loaded = ApiTls::load(&files(&config.api_tls), caller.calls(config));
    loaded.map_err(|error| sentence(&error))
}

/// Reads the files again.
///
/// # Errors
/// As for [`load`].
pub(crate) fn prepare_reload(
    tls: &ApiTls,
    config: &Config,
    caller: CallingProcess,
) -> Result<TlsReload, String> {
    let reload = tls.prepare_reload(&files(&config.api_tls), caller.calls(config));
    reload.map_err(|error| sentence(&error))
}

/// The certificate that callers are shown: `der`, from the file in `config`.
pub(crate) fn certificate(der: Option<Vec<u8>>, config: &Config) -> Option<Certificate> {
    let file = config.api_tls.certificate.clone()?;
    Certificate::read("api_tls.certificate".to_owned(), file, der?)
}

fn files(section: &Section) -> TlsFiles {
    let Section { certificate, key, client_ca, server_ca } = section.clone();
    TlsFiles { certificate, key, client_ca, server_ca }
}

fn sentence(error: &TlsError) -> String {
    format!("api_tls.{}: {error}", error.field)
}
