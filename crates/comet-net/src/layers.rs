//! What stands between a socket and its connection: a PROXY header to be read first, then TLS. Only
//! connections that have one of them have a front.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use comet_core::Hangup;
use comet_proto::proxy;

use crate::tls::{Heard, TlsSession};

/// The peers whose connections begin with a PROXY header.
#[derive(Clone)]
pub struct ProxyFrom(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl ProxyFrom {
    /// Those for which `has` says yes; it is asked once per connection.
    pub fn new(has: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(has))
    }

    pub(crate) fn has(&self, peer: IpAddr) -> bool {
        (self.0)(peer)
    }
}

impl fmt::Debug for ProxyFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyFrom").finish_non_exhaustive()
    }
}

/// What became of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// There is nothing left to do, or it was promised before.
    Done,
    /// [`Front::shake_hands`] is to be called once.
    Handshake,
}

pub(crate) struct Front {
    /// The header's bytes so far, while it is awaited.
    header: Option<Vec<u8>>,
    /// The peer, where a header named it.
    peer: Option<SocketAddr>,
    tls: Option<Box<TlsSession>>,
    /// How the stream has ended, behind what was put off.
    end: Option<Hangup>,
}

impl Front {
    /// `None` where nothing stands in between.
    pub(crate) fn new(awaits_header: bool, tls: Option<TlsSession>) -> Option<Box<Self>> {
        (awaits_header || tls.is_some()).then(|| {
            let header = awaits_header.then(Vec::new);
            Box::new(Self { header, peer: None, tls: tls.map(Box::new), end: None })
        })
    }

    /// Whom the connection comes from, where that is not the socket's peer.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub(crate) fn tls(&mut self) -> Option<&mut TlsSession> {
        self.tls.as_deref_mut()
    }

    /// Bytes have come; `hear` gets what is meant for the connection.
    ///
    /// # Errors
    /// How the reading side ended.
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        mut hear: impl FnMut(&[u8]),
    ) -> Result<Progress, Hangup> {
        let bytes = match &mut self.header {
            None => bytes,
            Some(header) => {
                let before = header.len();
                let most = bytes.len().min(proxy::HEADER_MAX - before);
                header.extend_from_slice(&bytes[..most]);
                match proxy::read(header) {
                    Ok(None) => return Ok(Progress::Done),
                    Ok(Some(proxy::Header { source, consumed })) => {
                        self.peer = source;
                        self.header = None;
                        &mut bytes[consumed - before..]
                    }
                    Err(fault) => return Err(Hangup::Proxy(fault.to_string().into())),
                }
            }
        };
        match &mut self.tls {
            _ if bytes.is_empty() => Ok(Progress::Done),
            None => {
                hear(bytes);
                Ok(Progress::Done)
            }
            Some(tls) => {
                let was_deferred = tls.is_deferred();
                if !tls.defer(bytes) {
                    decrypt(tls, bytes, hear)?;
                } else if !was_deferred {
                    return Ok(Progress::Handshake);
                }
                Ok(Progress::Done)
            }
        }
    }

    /// The stream has ended. `None`: not before what was put off is done, which may say more.
    pub(crate) fn end(&mut self, how: Hangup) -> Option<Hangup> {
        if self.tls().is_some_and(|tls| tls.is_deferred()) {
            self.end = Some(how);
            None
        } else {
            Some(how)
        }
    }

    /// Does what was put off.
    ///
    /// # Errors
    /// As [`Front::receive`].
    pub(crate) fn shake_hands(&mut self, hear: impl FnMut(&[u8])) -> Result<(), Hangup> {
        match self.tls() {
            Some(tls) if tls.is_deferred() => decrypt(tls, &mut [], hear)?,
            _ => {}
        }
        self.end.take().map_or(Ok(()), Err)
    }
}

fn decrypt(tls: &mut TlsSession, bytes: &mut [u8], hear: impl FnMut(&[u8])) -> Result<(), Hangup> {
    match tls.receive(bytes, hear) {
        Ok(Heard::Open) => Ok(()),
        Ok(Heard::Closed) => Err(Hangup::Eof),
        Err(fault) => Err(Hangup::Tls(fault.into())),
    }
}
