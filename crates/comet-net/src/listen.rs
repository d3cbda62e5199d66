//! Listening sockets: one for each address and core, bound before any core starts.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use comet_listen::socket;
use socket2::{Socket, TcpKeepalive};

use crate::steer;

/// The options of listening sockets. Accepted sockets inherit all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections the kernel keeps until they are accepted.
    pub backlog: i32,
    /// SO_SNDBUF, bytes; 0 lets the kernel tune it.
    pub sndbuf: usize,
    /// SO_RCVBUF, bytes; 0 lets the kernel tune it.
    pub rcvbuf: usize,
    /// SO_KEEPALIVE and its timing; `None`: silent peers are not probed.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: how long sent bytes may be unacknowledged; `None`: as long as the kernel retransmits them, some 15
    /// minutes. With keepalive it would take the place of [`Keepalive::count`].
    pub user_timeout: Option<Duration>,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// The CPU of each core, in the order of the cores. A connection then goes to the core on whose
    /// CPU its packets arrive. `None`: the kernel chooses by a hash of both addresses.
    pub steering: Option<Vec<usize>>,
}

/// How the kernel detects unavailable peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// TCP_KEEPIDLE: silence before the first probe; whole seconds, at least one.
    pub idle: Duration,
    /// TCP_KEEPINTVL: time between probes; whole seconds, at least one.
    pub interval: Duration,
    /// TCP_KEEPCNT: unanswered probes after which the connection is reset; at least one.
    pub count: u32,
}

/// An address that could not be listened on.
#[derive(Debug)]
pub enum ListenError {
    /// Binding or listening failed.
    Listen(comet_listen::ListenError),
    /// The program that steers connections by CPU could not be attached.
    Steer {
        /// The address.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Steer { address, source } => write!(
                f,
                "connections to {address} cannot be steered by CPU: {source}: set tcp.steering to \
                 \"off\""
            ),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen(error) => error.source(),
            Self::Steer { source, .. } => Some(source),
        }
    }
}

/// Tests whether [`bind`] would succeed: binds for a moment, without listening.
///
/// # Errors
/// As [`bind`].
pub fn check_bind(address: SocketAddr, options: &ListenOptions) -> Result<(), ListenError> {
    comet_listen::check(&address.into()).map_err(ListenError::Listen)?;
    let Some(cpus) = &options.steering else { return Ok(()) };
    let steer = || {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        steer::by_cpu(socket, cpus)
    };
    steer().map_err(|source| ListenError::Steer { address, source })
}

/// Binds `address` once for each of `cores`, with SO_REUSEPORT. Port 0 stands for a free port, the
/// same for all cores. Returns the address with the port in use, and the sockets.
///
/// # Errors
/// If the kernel refuses, or another socket listens there already. SO_REUSEPORT alone would
/// silently share the port with another process of the same user.
///
/// # Panics
/// If steering does not name a CPU for each of `cores`.
pub fn bind(
    address: SocketAddr,
    cores: usize,
    options: &ListenOptions,
) -> Result<(SocketAddr, Vec<OwnedFd>), ListenError> {
    let failed =
        |source| ListenError::Listen(comet_listen::ListenError { address: address.into(), source });
    comet_listen::check(&address.into()).map_err(ListenError::Listen)?;
    let mut bound = address;
    let mut listeners: Vec<OwnedFd> = Vec::with_capacity(cores);
    for _ in 0..cores {
        let listener = listen(bound, options).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        bound = local.as_socket().expect("an IP socket has an IP address");
        listeners.push(listener.into());
    }
    if let Some(cpus) = &options.steering {
        assert_eq!(cpus.len(), cores, "each core has its CPU");
        let failed = |source| ListenError::Steer { address: bound, source };
        steer::by_cpu(&listeners[0], cpus).map_err(failed)?;
    }
    Ok((bound, listeners))
}

fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = bound_socket(address, options)?;
    socket.listen(options.backlog)?;
    Ok(socket)
}

/// A socket that does not listen yet.
pub(crate) fn bound_socket(address: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    // Buffers must be set before listen: the window scale is negotiated from them.
    set_options(&socket, options)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options that accepted sockets inherit.
pub(crate) fn set_options(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(options.nodelay)?;
    // An inherited socket may have keepalive set.
    socket.set_keepalive(options.keepalive.is_some())?;
    if let Some(Keepalive { idle, interval, count }) = &options.keepalive {
        let keepalive = TcpKeepalive::new().with_time(*idle).with_interval(*interval);
        socket.set_tcp_keepalive(&keepalive.with_retries(*count))?;
    }
    socket.set_tcp_user_timeout(options.user_timeout)?;
    if options.sndbuf > 0 {
        socket.set_send_buffer_size(options.sndbuf)?;
    }
    if options.rcvbuf > 0 {
        socket.set_recv_buffer_size(options.rcvbuf)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::thread;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    const OPTIONS: ListenOptions = ListenOptions {
        backlog: 16,
        sndbuf: 0,
        rcvbuf: 0,
        keepalive: None,
        user_timeout: None,
        nodelay: true,
        steering: None,
    };

    #[test]
    fn all_cores_share_one_port_and_no_other_socket_may() {
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, listeners) = bind(any, 3, &OPTIONS).unwrap();
        assert_eq!(listeners.len(), 3);
        assert_ne!(address.port(), 0);
        let error = bind(address, 1, &OPTIONS).unwrap_err();
        assert!(matches!(&error, ListenError::Listen(error)
            if error.source.kind() == io::ErrorKind::AddrInUse));
        assert!(error.to_string().contains("is in use"), "{error}");
        let checked = check_bind(address, &OPTIONS).unwrap_err();
        assert_eq!(checked.to_string(), error.to_string());
        drop(listeners);
        let steered = ListenOptions { steering: Some(vec![0]), ..OPTIONS };
        check_bind(address, &steered).unwrap();
        bind(address, 1, &OPTIONS).unwrap();
    }

    #[test]
    fn an_address_of_another_host_is_an_error_that_names_it() {
        let error = bind("192.0.2.1:9".parse().unwrap(), 1, &OPTIONS).unwrap_err();
        assert!(error.to_string().starts_with("192.0.2.1:9 is no address of this host"), "{error}");
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let seconds = Duration::from_secs;
        let keepalive = Keepalive { idle: seconds(600), interval: seconds(20), count: 4 };
        let options = ListenOptions {
            keepalive: Some(keepalive),
            user_timeout: Some(seconds(300)),
            ..OPTIONS
        };
        let (address, listeners) = bind("127.0.0.1:0".parse().unwrap(), 1, &options).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let listener = Socket::from(listeners.into_iter().next().unwrap());
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.keepalive().unwrap() && accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), seconds(600));
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), seconds(20));
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(seconds(300)));
    }

    /// The kernel handles loopback packets on the CPU that sends them.
    #[test]
    fn a_connection_goes_to_the_core_of_its_cpu() {
        let allowed = sched_getaffinity(None).unwrap();
        let cpus: Vec<_> =
            (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).take(2).collect();
        let options = ListenOptions { steering: Some(cpus.clone()), ..OPTIONS };
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, listeners) = bind(any, cpus.len(), &options).unwrap();
        for (core, &cpu) in cpus.iter().enumerate().rev().cycle().take(16) {
            let connect = move || {
                let mut only = CpuSet::new();
                only.set(cpu);
                sched_setaffinity(None, &only).unwrap();
                TcpStream::connect(address).unwrap()
            };
            let _client = thread::spawn(connect).join().unwrap();
            let mut ready: Vec<_> =
                listeners.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            poll(&mut ready, None).unwrap();
            let at = ready.iter().position(|fd| !fd.revents().is_empty());
            assert_eq!(at, Some(core), "CPU {cpu}");
            rustix::net::accept(&listeners[core]).unwrap();
        }
    }

    #[test]
    fn a_steering_error_names_the_setting() {
        let error = ListenError::Steer {
            address: "127.0.0.1:3101".parse().unwrap(),
            source: steer::by_cpu(socket("127.0.0.1:0".parse().unwrap()).unwrap(), &[])
                .unwrap_err(),
        };
        let sentence = error.to_string();
        assert!(
            sentence.starts_with("connections to 127.0.0.1:3101 cannot be steered by CPU: ")
                && sentence.ends_with("set tcp.steering to \"off\""),
            "{sentence}"
        );
    }
}
