//! Sessions that continue in another process.

use comet_handover as handed;
use comet_record::{ImportError, PLAINTEXT_MAX, Session};

use super::{Ciphertext, Layer, SessionState, TlsSession, TransmitBudget};

impl TlsSession {
    /// The state that another process needs to continue, keys included. Only one of the two processes may continue: see
    /// [`Session::export`]. `None`: the handshake is not done, or the session has ended.
    pub(crate) fn export(&self) -> Option<handed::Tls> {
        let Self {
            layer,
            unprocessed,
            in_flight,
            written,
            queued,
            state,
            // These fields matter only during the handshake.
            is_deferred: _,
            has_answered: _,
        } = self;
        let (Layer::Records(session), SessionState::Open) = (layer, state) else { return None };
        Some(handed::Tls {
            // The message also wipes this copy.
            session: session.export()?.to_vec(),
            received: unprocessed.clone(),
            ciphertext: [&in_flight.bytes[*written..], &queued.bytes].concat(),
            sealed: u32::try_from(self.plaintext_len()).expect("a transmit is short"),
        })
    }

    /// Whether there are sealed bytes to send.
    pub(crate) fn has_ciphertext(&self) -> bool {
        !self.in_flight.bytes.is_empty() || !self.queued.bytes.is_empty()
    }

    /// Imports a session that another process exported. The ciphertext that it had sealed becomes the ciphertext in
    /// flight.
    ///
    /// # Errors
    /// If the message contains no valid session.
    pub(crate) fn import(
        mut tls: handed::Tls,
        budget: &TransmitBudget,
    ) -> Result<Self, ImportError> {
        let session = Session::import(&tls.session)?;
        let plaintext_len = tls.sealed as usize;
        Ok(Self {
            layer: Layer::Records(session),
            unprocessed: std::mem::take(&mut tls.received),
            in_flight: Ciphertext {
                bytes: std::mem::take(&mut tls.ciphertext),
                plaintext_len,
                lease: budget.lease_anyway(plaintext_len.saturating_sub(PLAINTEXT_MAX)),
            },
            written: 0,
            queued: Ciphertext::default(),
            state: SessionState::Open,
            is_deferred: false,
            has_answered: true,
        })
    }
}
