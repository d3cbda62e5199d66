//! Protocol layers between a socket and its connection: first a PROXY header, then TLS. Only a connection with at least
//! one layer has a [`ProtocolLayers`].

use std::net::SocketAddr;

use comet_core::Hangup;
use comet_proto::proxy;

use crate::tls::{ReadSide, TlsSession};

/// What became of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// They were processed, or kept for a call of [`ProtocolLayers::continue_handshake`] that is already due.
    Processed,
    /// They were kept: [`ProtocolLayers::continue_handshake`] is to be called once.
    HandshakeDeferred,
}

pub(crate) struct ProtocolLayers {
    proxy: Option<Box<Proxy>>,
    tls: Option<Box<TlsSession>>,
}

/// Part of the memory budget of every connection with TLS, idle or not.
const _: () = assert!(size_of::<ProtocolLayers>() <= 16);

struct Proxy {
    /// The bytes of the PROXY header so far; `None` once it is complete.
    header: Option<Vec<u8>>,
    /// The peer's address, if the header had one.
    peer: Option<SocketAddr>,
}

impl ProtocolLayers {
    /// `None` for a connection without layers.
    pub(crate) fn new(awaits_header: bool, tls: Option<TlsSession>) -> Option<Box<Self>> {
        (awaits_header || tls.is_some()).then(|| {
            let proxy =
                awaits_header.then(|| Box::new(Proxy { header: Some(Vec::new()), peer: None }));
            Box::new(Self { proxy, tls: tls.map(Box::new) })
        })
    }

    /// For a connection taken over from another process, which has read the PROXY header. `None` if there was no header
    /// and there is no TLS.
    pub(crate) fn arrived(peer: Option<SocketAddr>, tls: Option<TlsSession>) -> Option<Box<Self>> {
        (peer.is_some() || tls.is_some()).then(|| {
            let proxy = peer.map(|peer| Box::new(Proxy { header: None, peer: Some(peer) }));
            Box::new(Self { proxy, tls: tls.map(Box::new) })
        })
    }

    /// The peer's address, if a PROXY header had one.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.proxy.as_ref()?.peer
    }

    /// Whether the PROXY header is not complete.
    pub(crate) fn awaits_header(&self) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.header.is_some())
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The session of the connection, if it has TLS.
    pub(crate) fn session(&self) -> Option<&TlsSession> {
        self.tls.as_deref()
    }

    pub(crate) fn tls(&mut self) -> Option<&mut TlsSession> {
        self.tls.as_deref_mut()
    }

    /// Reads the PROXY header from received bytes, if it is not complete. Returns the bytes behind it, for
    /// [`ProtocolLayers::handle_recv`]. Once the header is complete, [`ProtocolLayers::peer`] returns its address.
    ///
    /// # Errors
    /// Why the connection receives nothing more.
    pub(crate) fn read_header<'a>(&mut self, bytes: &'a mut [u8]) -> Result<&'a mut [u8], Hangup> {
        match self.proxy.as_deref_mut() {
            None | Some(Proxy { header: None, .. }) => Ok(bytes),
            Some(Proxy { header: place @ Some(_), peer }) => {
                let header = place.get_or_insert_default();
                let before = header.len();
                let most = bytes.len().min(proxy::HEADER_MAX - before);
                header.extend_from_slice(&bytes[..most]);
                match proxy::read(header) {
                    Ok(None) => Ok(&mut []),
                    Ok(Some(proxy::Header { source, consumed })) => {
                        *peer = source;
                        *place = None;
                        Ok(&mut bytes[consumed - before..])
                    }
                    Err(fault) => Err(Hangup::Proxy(fault.to_string().into())),
                }
            }
        }
    }

    /// Processes received bytes behind the PROXY header and calls `on_plaintext` with the connection's input.
    ///
    /// # Errors
    /// Why the connection receives nothing more.
    pub(crate) fn handle_recv(
        &mut self,
        bytes: &mut [u8],
        mut on_plaintext: impl FnMut(&[u8]),
    ) -> Result<Received, Hangup> {
        match &mut self.tls {
            _ if bytes.is_empty() => Ok(Received::Processed),
            None => {
                on_plaintext(bytes);
                Ok(Received::Processed)
            }
            Some(tls) => {
                let was_deferred = tls.is_deferred();
                if !tls.defer(bytes).map_err(|fault| Hangup::Tls(fault.into()))? {
                    decrypt(tls, bytes, on_plaintext)?;
                } else if !was_deferred {
                    return Ok(Received::HandshakeDeferred);
                }
                Ok(Received::Processed)
            }
        }
    }

    /// Whether our part of the handshake was made. The rest of the handshake costs little.
    pub(crate) fn has_answered(&mut self) -> bool {
        self.tls().is_some_and(|tls| tls.has_answered())
    }

    /// Processes the bytes of a deferred handshake.
    ///
    /// # Errors
    /// As [`ProtocolLayers::handle_recv`].
    pub(crate) fn continue_handshake(
        &mut self,
        on_plaintext: impl FnMut(&[u8]),
    ) -> Result<(), Hangup> {
        match self.tls() {
            Some(tls) if tls.is_deferred() => decrypt(tls, &mut [], on_plaintext),
            _ => Ok(()),
        }
    }
}

fn decrypt(
    tls: &mut TlsSession,
    bytes: &mut [u8],
    on_plaintext: impl FnMut(&[u8]),
) -> Result<(), Hangup> {
    match tls.handle_recv(bytes, on_plaintext) {
        Ok(ReadSide::Open) => Ok(()),
        Ok(ReadSide::Closed) => Err(Hangup::Eof),
        Err(fault) => Err(Hangup::Tls(fault.into())),
    }
}
