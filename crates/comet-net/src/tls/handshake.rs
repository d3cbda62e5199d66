//! The handshake of one connection. rustls speaks it until the record layer takes over.

use std::sync::Arc;

use comet_record::{TrafficSecrets, from_rustls, record_len};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{Error, ServerConfig};

pub(super) struct Handshake {
    rustls: UnbufferedServerConnection,
    /// The configuration's `key_log`.
    secrets: Arc<TrafficSecrets>,
    /// Bytes that rustls has processed as whole records but not discarded: the beginning of a handshake message. rustls
    /// may have moved them, so record headers are not looked for among them.
    seen: usize,
}

/// How far a handshake has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// The peer has to send the next part.
    Waiting,
    /// The handshake is done. The bytes that follow are for the record layer.
    Done,
}

impl Handshake {
    pub(super) fn new(config: &ServerConfig) -> Self {
        let secrets = Arc::new(TrafficSecrets::default());
        let mut own = config.clone();
        own.enable_secret_extraction = true;
        own.key_log = Arc::clone(&secrets) as Arc<_>;
        let rustls = UnbufferedServerConnection::new(Arc::new(own))
            .expect("rustls refuses only a maximum fragment size, and none is set");
        Self { rustls, secrets, seen: 0 }
    }

    /// Lets rustls process `input`, which begins with the bytes it did not use before, and appends its answer to `out`.
    /// Returns how many bytes were used.
    ///
    /// rustls is shown one record at a time, so it opens none behind the handshake. Such a record would be opened
    /// twice.
    ///
    /// # Errors
    /// What is wrong; `out` then ends with the alert.
    pub(super) fn process(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<Progress, Error>) {
        let mut used = 0;
        let mut whole = self.seen;
        loop {
            // A faulty header is left to rustls, which reports the error.
            let next = match record_len(&input[whole..]) {
                Ok(Some(len)) if whole + len <= input.len() => Some(whole + len),
                _ => None,
            };
            let shown = next.unwrap_or(input.len());
            let (discarded, progress) = self.process_shown(&mut input[used..shown], out);
            used += discarded;
            whole = next.unwrap_or(whole);
            self.seen = whole.saturating_sub(used);
            match progress {
                Ok(Progress::Waiting) if next.is_some() => {}
                Ok(Progress::Done) if self.seen > 0 => {
                    let error = "a message behind the handshake's last one".to_owned();
                    return (used, Err(Error::General(error)));
                }
                progress => return (used, progress),
            }
        }
    }

    fn process_shown(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<Progress, Error>) {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.rustls.process_tls_records(&mut input[used..]);
            used += discard;
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::BlockedHandshake) => return (used, Ok(Progress::Waiting)),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    let is_done = !self.rustls.is_handshaking();
                    let progress = if is_done { Progress::Done } else { Progress::Waiting };
                    return (used, Ok(progress));
                }
                Ok(_) => {
                    let error = "data before the handshake is done".to_owned();
                    return (used, Err(Error::General(error)));
                }
                Err(error) => {
                    self.encode_alert(&mut input[used..], out);
                    return (used, Err(error));
                }
            }
        }
    }

    /// Appends the alert of an error. rustls returns the pending output before it reads `input` again.
    fn encode_alert(&mut self, input: &mut [u8], out: &mut Vec<u8>) {
        while self.rustls.wants_write() {
            let status = self.rustls.process_tls_records(input);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else {
                return;
            };
            encode(&mut data, out);
        }
    }

    /// The session, once the handshake is done.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn into_session(self) -> Result<comet_record::Session, String> {
        from_rustls(self.rustls, &self.secrets).map_err(|error| error.to_string())
    }
}

/// Appends a handshake record, and grows `out` as needed.
fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, out: &mut Vec<u8>) {
    let begin = out.len();
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
        unreachable!("no record is empty, and each is encoded once");
    };
    out.reserve_exact(size.required_size);
    out.resize(begin + size.required_size, 0);
    let written = data.encode(&mut out[begin..]).expect("it has the room that it asked for");
    out.truncate(begin + written);
}
