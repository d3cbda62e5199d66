//! The settings that a core is started with: its listeners, its sizes and its inboxes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_core::{Message, Report, Settings, TakeOver, Transport};
use comet_mesh::{EventFd, Inbox, Pulse, Sender};

use crate::certificates::Tls;

/// A listening socket of one core.
#[derive(Debug)]
pub struct Listener {
    /// Bound and listening; see [`crate::bind`].
    pub socket: OwnedFd,
    /// The transport of accepted connections.
    pub transport: Transport,
    /// The TLS that accepted connections use; `None`: no TLS.
    pub tls: Option<Tls>,
    /// Peers whose connections begin with a PROXY header; `None`: no connection does.
    pub proxy_from: Option<ProxyFrom>,
}

/// The peers whose connections begin with a PROXY header.
#[derive(Clone)]
pub struct ProxyFrom(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl ProxyFrom {
    /// The peers for which `contains` returns true. It is called once per connection.
    pub fn new(contains: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(contains))
    }

    pub(crate) fn contains(&self, peer: IpAddr) -> bool {
        (self.0)(peer)
    }
}

impl fmt::Debug for ProxyFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyFrom").finish_non_exhaustive()
    }
}

/// The settings of one core.
#[derive(Debug)]
pub struct CoreSettings {
    /// The CPU it runs on; `None` leaves the choice to the kernel.
    pub cpu: Option<usize>,
    /// Its shard.
    pub shard: Settings,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Listening sockets for push callers. Cores may share one.
    pub caller_listeners: Vec<OwnedFd>,
    /// Entries of the submission queue; a power of two.
    pub ring_entries: u32,
    /// Receive buffers; a power of two up to 32,768.
    pub recv_buffers: u16,
    /// Bytes of one receive buffer.
    pub recv_buffer_size: usize,
    /// How long the driver polls for work before it sleeps.
    pub spin: Duration,
    /// How long the kernel polls network cards before the driver sleeps; whole microseconds, zero for not at all.
    pub busy_poll: Duration,
    /// When the process started: the zero of the shard's clock, the same for all cores.
    pub epoch: Instant,
    /// Whether the core starts frozen and does nothing until [`Core::thaw`](crate::Core::thaw). It then waits for the
    /// connections that another process hands over ([`Core::adopt`](crate::Core::adopt)).
    pub is_frozen: bool,
}

/// A core's share of what another process handed over.
pub struct Arrived {
    /// The state of its shard.
    pub part: TakeOver,
    /// The sockets of its connections, in their order.
    pub sockets: Vec<ArrivedSocket>,
}

impl fmt::Debug for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrived").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

/// The socket of a connection that another process has accepted.
#[derive(Debug)]
pub struct ArrivedSocket {
    /// The socket itself.
    pub fd: OwnedFd,
    /// The peer's address, if a PROXY header had one.
    pub peer: Option<SocketAddr>,
}

/// The inboxes that connect a core to the other shards and to control.
#[derive(Debug)]
pub struct MeshEndpoints {
    /// The core's own inbox. Its priority messages are those of
    /// [`MessageClass::Directory`](comet_core::MessageClass).
    pub inbox: Inbox<Message>,
    /// The waker of `inbox`: it ends the driver's sleep.
    pub wakeup: Arc<EventFd>,
    /// The core's sign of life.
    pub pulse: Arc<Pulse>,
    /// The other shards' inboxes by shard number; the entry of the shard itself is not used.
    pub peers: Vec<Sender<Message>>,
    /// Control's inbox.
    pub control: Sender<Report>,
}
