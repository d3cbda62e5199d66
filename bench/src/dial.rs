//! Begins the connections of a run, each with the properties of its number.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use comet_client::{Session, Transport};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::crowd::{Crowd, Reading};
use crate::deflate::Deflate;
use crate::receiver::Receiver;
use crate::source::{Sources, default_source};
use crate::target::Endpoints;
use crate::tls::Tls;

/// Descriptors of a process besides those of connections.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Everything needed to make a connection by its number.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Dialer {
    pub endpoints: Endpoints,
    pub crowd: Crowd,
    pub sources: Option<Sources>,
    /// Handshakes under way at once.
    pub in_flight: usize,
    /// Operation of the messages that the connections are to receive.
    pub operation: i32,
}

impl Dialer {
    /// Begins a connection, whose handshake is measured from `since_ns`; returns its index at the receiver. Fails if
    /// the host refuses it, or there is no such address.
    pub(crate) fn begin(
        &self,
        receiver: &mut Receiver,
        connection: usize,
        since_ns: u64,
    ) -> Result<usize> {
        let (mut endpoints, crowd) = (&self.endpoints, &self.crowd);
        if crowd.is_inside_tls(connection) {
            endpoints = endpoints.inside_tls.as_deref().ok_or("no addresses for TLS")?;
        }
        let transport = crowd.transport(connection);
        let address = match transport {
            Transport::Tcp => endpoints.tcp,
            Transport::WebSocket => {
                endpoints.websocket.ok_or("no WebSocket address: name --ws-addr")?
            }
        };
        let (host, token) = (address.to_string(), crowd.token(connection));
        let is_protocol_2 = crowd.further > 0 || crowd.keeps_positions;
        let begin = if is_protocol_2 { Session::new } else { Session::of_protocol_1 };
        let mut session = begin(transport, &host, &crowd.websocket_path, token.as_bytes());
        // No messages are expected in a guest's single stream; a guest has subscriptions.
        let is_guest = connection >= crowd.connections;
        let stream = if is_guest { u32::MAX } else { u32::try_from(crowd.stream(connection))? };
        let tls =
            endpoints.tls.as_ref().map(|clients| Tls::new(clients, address.ip())).transpose()?;
        // Inside TLS, messages are not compressed.
        let is_deflated = crowd.deflate && transport == Transport::WebSocket && tls.is_none();
        let deflate = is_deflated.then(|| Deflate::new(&mut session));
        let source = self.source(address.ip(), connection);
        let buffer = crowd.slow_buffer.filter(|_| crowd.reading(connection) != Reading::AtOnce);
        let socket = begin_to_connect(address, source, buffer)
            .map_err(|error| format!("connection {connection} to {address}: {error}"))?;
        Ok(receiver.add(socket, (tls, deflate), session, stream, since_ns)?)
    }

    fn source(&self, destination: IpAddr, connection: usize) -> Option<IpAddr> {
        match &self.sources {
            Some(sources) => Some(sources.of(connection)),
            None => default_source(destination, connection),
        }
    }
}

/// Raises the limit of open files as far as the host allows, and checks it against `connections`, which are shared by
/// `processes` processes. Fails if it is too low for them.
pub(crate) fn ensure_descriptors(connections: usize, processes: u32) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    check_descriptors(connections.div_ceil(processes as usize), limit.maximum)
}

fn check_descriptors(connections: usize, limit: Option<u64>) -> Result<()> {
    let needed = connections as u64 + DESCRIPTORS_BESIDE;
    match limit.filter(|&limit| limit < needed) {
        None => Ok(()),
        Some(limit) => Err(format!(
            "{connections} connections of one process need {needed} open files, and the limit is {limit}: \
             raise it with `ulimit -Hn {needed}`, or share them with --processes"
        )
        .into()),
    }
}

/// Begins a connection on a socket that does not block and is closed with a reset.
pub(crate) fn begin_to_connect(
    address: SocketAddr,
    source: Option<IpAddr>,
    receive_buffer: Option<usize>,
) -> rustix::io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // Closed with a reset: ports in TIME_WAIT would slow down later turns.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    if let Some(bytes) = receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    if let Some(source) = source {
        bind(&socket, &SocketAddr::from((source, 0)))?;
    }
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_are_reported_with_the_remedy() {
        assert!(check_descriptors(1000, None).is_ok());
        assert!(check_descriptors(1000, Some(1064)).is_ok());
        let error = check_descriptors(1000, Some(1063)).unwrap_err().to_string();
        assert!(error.contains("ulimit -Hn 1064"), "{error}");
    }
}
