//! Opens the configured listening sockets, with TLS and the PROXY protocol.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use comet_config::{Config, Steering};
use comet_core::Transport;
use comet_listen::{Address, Inherited, NamedSocket, SocketFile, inherit_unix, listen_unix};
use comet_net::{
    InheritedListeners, Keepalive, ListenError, ListenOptions, Listener, ProxyFrom, Tls,
    TlsOptions, Unsettled,
};
use comet_ops::Certificate;

use crate::StartError;

/// All listening sockets for clients and push callers.
pub(crate) struct Listeners {
    /// The sockets of each core.
    pub(crate) cores: Vec<Vec<Listener>>,
    /// The sockets for push callers.
    pub(crate) callers: CallerListeners,
    pub(crate) addresses: Addresses,
    /// Certificates and keys that the TLS listeners share; `None` without such listeners.
    pub(crate) tls: Option<Tls>,
    pub(crate) passing: Passing,
}

/// The state of the sockets for a live upgrade.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    /// Duplicates of all of them, for the next process.
    pub(crate) sockets: Vec<NamedSocket>,
    /// Remaining changes to the sockets of the former process, to be made once it has ended its work.
    pub(crate) unsettled: Vec<(&'static str, Unsettled)>,
}

impl Passing {
    /// Listens at `address` for each of `cores`, or takes over the sockets of the former process. `place` is the
    /// setting and the index of the address in it.
    fn listen(
        &mut self,
        (address, place): (SocketAddr, (&'static str, usize)),
        cores: usize,
        options: &ListenOptions,
        inherited: &Inherited,
    ) -> Result<(SocketAddr, Vec<Vec<OwnedFd>>), ListenError> {
        let configured = Address::from(address);
        let former = inherited.take(place.0, &configured);
        let (bound, sockets) = if former.is_empty() {
            let (bound, sockets) = comet_net::bind(address, cores, options)?;
            (bound, sockets.into_iter().map(|socket| vec![socket]).collect())
        } else {
            let InheritedListeners { address, cores, unsettled } =
                comet_net::inherit(former, cores, options)?;
            self.unsettled.push((place.0, unsettled));
            (address, cores)
        };
        self.pass_on(place, &configured, &sockets)?;
        Ok((bound, sockets))
    }

    /// Keeps duplicates of the sockets of an address. A process that takes them over numbers a group of sockets as this
    /// one does: the first of each core, then the second of each, and so on.
    fn pass_on(
        &mut self,
        place: (&'static str, usize),
        address: &Address,
        by_core: &[Vec<OwnedFd>],
    ) -> Result<(), ListenError> {
        let most = by_core.iter().map(Vec::len).max().unwrap_or(0);
        for socket in (0..most).flat_map(|at| by_core.iter().filter_map(move |core| core.get(at))) {
            let named = NamedSocket::of(place, address, socket.as_fd());
            self.sockets.push(named.map_err(|source| {
                ListenError::Listen(comet_listen::ListenError { address: address.clone(), source })
            })?);
        }
        Ok(())
    }
}

/// Addresses in use, in the order of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) tcp: Vec<SocketAddr>,
    pub(crate) tcp_tls: Vec<SocketAddr>,
    pub(crate) websocket: Vec<SocketAddr>,
    pub(crate) websocket_tls: Vec<SocketAddr>,
}

/// The listening sockets for callers of `push.frames`.
#[derive(Debug, Default)]
pub(crate) struct CallerListeners {
    /// The sockets of each core. Those of a Unix socket are the same for all.
    pub(crate) cores: Vec<Vec<OwnedFd>>,
    /// Addresses in use.
    pub(crate) addresses: Vec<Address>,
    /// The files of Unix sockets, which are removed with this.
    pub(crate) files: Vec<SocketFile>,
}

/// Reads the certificates and binds every address once for each core. `inherited` has the sockets of the former
/// process.
///
/// # Errors
/// The first file or address that cannot be used.
pub(crate) fn open(config: &Config, inherited: &Inherited) -> Result<Listeners, StartError> {
    let Config { tcp, websocket, .. } = config;
    let tls = tls(config)?;
    let mut passing = Passing::default();
    let callers = open_frames(config, inherited, &mut passing)?;
    let mut cores = Vec::new();
    cores.resize_with(config.server.cores.len(), Vec::new);
    let mut opening = Opening {
        options: options(config),
        silence_max: (!tcp.keepalive).then_some(config.protocol.heartbeat),
        proxy_from: proxy_from(config),
        cores,
        inherited,
        passing,
    };
    use Transport::{Tcp, WebSocket};
    let addresses = Addresses {
        tcp: opening.listen("tcp.bind", &tcp.bind, Tcp, None)?,
        tcp_tls: opening.listen("tcp.tls_bind", &tcp.tls_bind, Tcp, tls.as_ref())?,
        websocket: opening.listen("websocket.bind", &websocket.bind, WebSocket, None)?,
        websocket_tls: opening.listen(
            "websocket.tls_bind",
            &websocket.tls_bind,
            WebSocket,
            tls.as_ref(),
        )?,
    };
    let Opening { cores, passing, .. } = opening;
    Ok(Listeners { cores, callers, addresses, tls, passing })
}

/// Binds the addresses of `push.frames`: an IP address once for each core, a Unix socket once for all.
fn open_frames(
    config: &Config,
    inherited: &Inherited,
    passing: &mut Passing,
) -> Result<CallerListeners, StartError> {
    let setting = "push.frames";
    let mut callers = CallerListeners::default();
    callers.cores.resize_with(config.server.cores.len(), Vec::new);
    for (index, address) in config.push.frames.iter().enumerate() {
        let cores = callers.cores.len();
        let failed = |source| StartError::Listen { setting, source };
        match address {
            Address::Plain(address) => {
                let place = (*address, (setting, index));
                let (bound, sockets) =
                    passing.listen(place, cores, &options(config), inherited).map_err(failed)?;
                callers.addresses.push(bound.into());
                callers.cores.iter_mut().zip(sockets).for_each(|(core, own)| core.extend(own));
            }
            Address::Unix(path) => {
                let opened = match inherited.take(setting, address).pop() {
                    Some(former) => inherit_unix(path, former),
                    None => listen_unix(path, config.tcp.backlog),
                };
                let unix = opened.and_then(|(socket, file)| {
                    let socket = OwnedFd::from(socket);
                    let failed = |source: io::Error| comet_listen::ListenError {
                        address: address.clone(),
                        source,
                    };
                    for core in &mut callers.cores {
                        core.push(socket.try_clone().map_err(failed)?);
                    }
                    Ok((socket, file))
                });
                let (socket, file) = unix.map_err(ListenError::Listen).map_err(failed)?;
                passing.pass_on((setting, index), address, &[vec![socket]]).map_err(failed)?;
                callers.files.push(file);
                callers.addresses.push(address.clone());
            }
            Address::Tls(_) => unreachable!("the configuration has none"),
        }
    }
    Ok(callers)
}

/// The addresses of clients, by the keys that name them.
pub(crate) fn settings(config: &Config) -> [(&'static str, &[SocketAddr]); 4] {
    let Config { tcp, websocket, .. } = config;
    [
        ("tcp.bind", &tcp.bind),
        ("tcp.tls_bind", &tcp.tls_bind),
        ("websocket.bind", &websocket.bind),
        ("websocket.tls_bind", &websocket.tls_bind),
    ]
}

/// Certificates and keys, if there are listeners that need them.
///
/// # Errors
/// Every file that cannot be used.
pub(crate) fn tls(config: &Config) -> Result<Option<Tls>, StartError> {
    let serves_tls = !config.tcp.tls_bind.is_empty() || !config.websocket.tls_bind.is_empty();
    serves_tls.then(|| load_tls(config)).transpose()
}

/// Reads the certificates and keys in `config`.
///
/// # Errors
/// Every file that cannot be used.
pub(crate) fn load_tls(config: &Config) -> Result<Tls, StartError> {
    Tls::load(&tls_options(config)).map_err(StartError::Tls)
}

/// Reads the files that `config` names, for handshakes that begin after this call.
///
/// # Errors
/// Every file that cannot be used; then nothing changes.
pub(crate) fn reload(tls: &Tls, config: &Config) -> Result<(), StartError> {
    tls.reload(&tls_options(config)).map_err(StartError::Tls)
}

/// The certificates that clients are shown, from the files in `config`.
pub(crate) fn certificates(tls: &Tls, config: &Config) -> Vec<Certificate> {
    let files = (0..).zip(config.tls.certificates.iter().cloned()).zip(tls.certificates());
    let read = |((index, file), der): ((u32, _), _)| {
        Certificate::read(format!("tls.certificates[{index}]"), file, der)
    };
    files.filter_map(read).collect()
}

struct Opening<'a> {
    options: ListenOptions,
    /// How long clients of WebSocket listeners may acknowledge nothing.
    silence_max: Option<Duration>,
    proxy_from: Option<ProxyFrom>,
    cores: Vec<Vec<Listener>>,
    inherited: &'a Inherited,
    passing: Passing,
}

impl Opening<'_> {
    fn listen(
        &mut self,
        setting: &'static str,
        addresses: &[SocketAddr],
        transport: Transport,
        tls: Option<&Tls>,
    ) -> Result<Vec<SocketAddr>, StartError> {
        // The client of an event stream sends no heartbeats. Its connection ends when it does not acknowledge sent
        // bytes.
        let user_timeout = self.silence_max.filter(|_| transport == Transport::WebSocket);
        let options = ListenOptions { user_timeout, ..self.options.clone() };
        let mut bound = Vec::with_capacity(addresses.len());
        for (index, &address) in addresses.iter().enumerate() {
            let place = (address, (setting, index));
            let (address, sockets) = self
                .passing
                .listen(place, self.cores.len(), &options, self.inherited)
                .map_err(|source| StartError::Listen { setting, source })?;
            bound.push(address);
            for (core, sockets) in self.cores.iter_mut().zip(sockets) {
                for socket in sockets {
                    let (tls, proxy_from) = (tls.cloned(), self.proxy_from.clone());
                    core.push(Listener { socket, transport, tls, proxy_from });
                }
            }
        }
        Ok(bound)
    }
}

pub(crate) fn options(config: &Config) -> ListenOptions {
    let tcp = &config.tcp;
    ListenOptions {
        backlog: tcp.backlog,
        sndbuf: tcp.sndbuf,
        rcvbuf: tcp.rcvbuf,
        keepalive: tcp.keepalive.then_some(Keepalive {
            idle: tcp.keepalive_idle,
            interval: tcp.keepalive_interval,
            count: tcp.keepalive_count,
        }),
        user_timeout: None,
        nodelay: tcp.nodelay,
        steering: match tcp.steering {
            Steering::Off => None,
            Steering::Cpu => Some(config.server.cores.clone()),
        },
    }
}

fn proxy_from(config: &Config) -> Option<ProxyFrom> {
    let networks = config.tcp.proxy_from.clone();
    (!networks.is_empty())
        .then(|| ProxyFrom::new(move |peer| networks.iter().any(|network| network.contains(peer))))
}

fn tls_options(config: &Config) -> TlsOptions {
    let tls = &config.tls;
    TlsOptions {
        pairs: tls.certificates.iter().cloned().zip(tls.keys.iter().cloned()).collect(),
        min_version: match tls.min_version {
            comet_config::TlsVersion::V1_2 => comet_net::TlsVersion::V1_2,
            comet_config::TlsVersion::V1_3 => comet_net::TlsVersion::V1_3,
        },
    }
}
