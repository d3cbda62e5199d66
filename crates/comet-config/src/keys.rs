//! Every key of the configuration, each declared once: its meaning and unit, its type, its default, its kind
//! with its limits, and when a change takes effect. Everything else that is about keys follows from here:
//! [`Config`], the checks, `comet.toml`, the tables in `docs/CONFIG.md`, `--check`, the environment
//! variables, and what SIGHUP changes.
//!
//! To add a key, declare it here and run `UPDATE_DOCS=1 cargo test -p comet-config`.
//!
//! The text above a key is what `comet.toml` and `docs/CONFIG.md` have; limits are added there from its
//! kind. [`sections!`](crate::declare) describes the syntax.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use comet_listen::Address;
use comet_proto::websocket::OriginPattern;

use crate::choices::{
    Algorithm, HistoryStore, LogFormat, LogLevel, NatsRooms, SessionStore, SlowConsumer, Steering,
    TlsVersion, TokenExpiry, TokenKind, UnknownCode,
};
use crate::declare::{Entry, Key, Section, TakesEffect, sections};
use crate::kinds::coalesce::{CoalesceRule, CoalesceRules};
use crate::kinds::history::{HistoryRule, HistoryRules};
use crate::kinds::lists::{
    Addresses, ApiAddresses, ClientHosts, Comets, Files, Hosts, Networks, Nodes, Origins, Peers,
    Places, Tokens, list,
};
use crate::kinds::presence::{PresenceRule, PresenceRules};
use crate::kinds::quantities::{duration, number, power_of_two, size, whole_seconds, zero_or};
use crate::kinds::texts::{FileOrNone, Text, TextOrNone, TokenOrNone};
use crate::kinds::urls::{KeyUrls, NatsUrls, RedisUrls, UrlOrNone};
use crate::kinds::{self, AnyOf, Cpus, Kind, OneOf, Secret, Switch, Users};
use crate::network::Network;
use crate::reader::Reader;
use crate::units::{DAY, GIB, HOUR, KIB, MIB, MINUTE, SECOND, ZERO};

/// Timeouts: a shorter one would end what works.
const TIMEOUT: RangeInclusive<Duration> = TENTH..=HOUR;
const TENTH: Duration = Duration::from_millis(100);
/// What TCP_KEEPIDLE and TCP_KEEPINTVL take, in hours: the kernel knows up to 32767 seconds.
const KEEPALIVE: RangeInclusive<Duration> = SECOND..=Duration::from_secs(9 * 3600);

/// Entries of a ring, of sends or of buffers: the kernel takes powers of two up to 32768
/// (`IORING_MAX_ENTRIES`).
const RING: RangeInclusive<i64> = 16..=32_768;
/// Most users on the trace list: each of their frames is a line in a file.
const TRACE_USERS_MAX: usize = 65_536;

sections! {
    /// The process: its name, its CPUs, its end.
    server: Server {
        /// The name of this server towards logic and in metrics. "": the name of the host.
        id: String = "" in Text::NAME, AtStart;
        /// The name or address that clients reach this server by, as GET /goim/nodes/weighted reports it. "": the same as id.
        domain: String = "" in Text::NAME, AtStart;
        /// The weight of this server as GET /goim/nodes/instances reports it: its share of clients beside that of others.
        weight: u32 = 1 in number(1..=10_000), AtStart;
        /// Names by which callers reach the HTTP addresses, beside id, domain and localhost. Where no token is asked
        /// for, a request to another name is refused: it may be a web page's own name that points here.
        hosts: Vec<String> = [] in list(Hosts), AtStart;
        /// CPUs of the data cores, a list like "0-3,6". Each has listeners of its own and its own share of
        /// everything. "": all but the control cores; on a machine of one or two CPUs all.
        cores: Vec<usize> = "" in Cpus, AtStart;
        /// CPUs that the control thread (gRPC, metrics) is pinned to, a list like "7". "": it is not pinned.
        control_cores: Vec<usize> = "" in Cpus, AtStart;
        /// How long an idle core looks for work again before it sleeps. A longer time takes CPU time and
        /// saves a few microseconds of latency.
        spin: Duration = "0us" in duration(ZERO..=SECOND), AtStart;
        /// How long a core that waits looks for packets at the network card itself before it sleeps. For hosts of
        /// their own whose cards have a queue for each core; it needs kernel 6.9. "0us": not at all.
        busy_poll: Duration = "0us" in duration(ZERO..=SECOND), AtStart;
        /// How long new clients are still accepted at the start of a drain, while /healthz and discovery say already
        /// that the server drains: the time that load balancers take to notice. "0s": not at all.
        drain_delay: Duration = "0s" in duration(ZERO..=HOUR), Alive;
        /// How long clients may take to leave at SIGTERM and SIGINT, after drain_delay. Those that are left then are cut off.
        drain_timeout: Duration = "10s" in duration(ZERO..=HOUR), Alive;
        /// Time over which the close notices at SIGTERM are spread, so that clients do not all connect to
        /// another server at once. At least a second shorter than drain_timeout, if not zero.
        drain_over: Duration = "0s" in duration(ZERO..=HOUR), Alive;
        /// The close notice of a drain asks a client to wait a random time up to this before it connects
        /// again. "0s": it names no time.
        retry_after: Duration = "0s" in duration(ZERO..=HOUR), Alive;
        /// The file that holds the process id while the server runs. "": none.
        pid_file: Option<PathBuf> = "" in FileOrNone, AtStart;
    }

    /// Plain TCP listeners. All keys but the addresses hold for WebSocket connections too.
    tcp: Tcp {
        /// Addresses for plain TCP clients; []: none. Every data core listens on each.
        bind: Vec<SocketAddr> = ["0.0.0.0:8080"] in Addresses, AtStart;
        /// Addresses for the same inside TLS; []: none. They need tls.certificates.
        tls_bind: Vec<SocketAddr> = [] in Addresses, AtStart;
        /// Send buffer of a connection in the kernel, bytes; 0: the kernel finds the right size.
        /// docs/OPERATIONS.md has the costs and savings of small ones.
        sndbuf: usize = 0 in size(0..=GIB), AtStart;
        /// Receive buffer of a connection in the kernel, as sndbuf.
        rcvbuf: usize = 0 in size(0..=GIB), AtStart;
        /// Whether the kernel probes silent peers (SO_KEEPALIVE). Heartbeats do that already.
        keepalive: bool = false in Switch, AtStart;
        /// With keepalive: silence before the first probe.
        keepalive_idle: Duration = "2h" in whole_seconds(KEEPALIVE), AtStart;
        /// With keepalive: time between probes.
        keepalive_interval: Duration = "75s" in whole_seconds(KEEPALIVE), AtStart;
        /// With keepalive: probes without an answer that end the connection.
        keepalive_count: u32 = 9 in number(1..=127), AtStart;
        /// Whether a small message leaves at once (TCP_NODELAY).
        nodelay: bool = true in Switch, AtStart;
        /// Connections that may wait to be accepted on one listener. The kernel cuts it to net.core.somaxconn.
        backlog: i32 = 4096 in number(1..=65_535), AtStart;
        /// Which data core takes a connection.
        steering: Steering = "off" in OneOf, AtStart;
        /// Networks, like "10.0.0.0/8", whose connections begin with a PROXY protocol header of version 1 or
        /// 2: your load balancers. comet trusts the client address in it. It accepts no header from elsewhere.
        proxy_from: Vec<Network> = [] in list(Networks), AtStart;
    }

    /// WebSocket listeners.
    websocket: WebSocket {
        /// Addresses for WebSocket clients and event streams (GET /sse); []: none. Every data core listens on each.
        bind: Vec<SocketAddr> = ["0.0.0.0:8090"] in Addresses, AtStart;
        /// Addresses for the same inside TLS, like "0.0.0.0:8095"; []: none. They need tls.certificates.
        tls_bind: Vec<SocketAddr> = [] in Addresses, AtStart;
        /// The path of the upgrade. Another path is answered with 404.
        path: String = "/sub" in Text::URL_PATH, Alive;
        /// Largest head of an upgrade request, bytes.
        head_max: usize = "16KiB" in size(KIB..=64 * KIB), Alive;
        /// Whether clients may speak JSON in text messages, as those of goim v1.2 and people with a console do: a client
        /// whose token comes in a text message does. docs/PROTOCOL.md has the form.
        text: bool = false in Switch, Alive;
        /// Whether clients that offer permessage-deflate (RFC 7692), as browsers do, get pushes compressed, each once for all of them.
        deflate: bool = false in Switch, Alive;
        /// Shortest message that is compressed, bytes. Shorter ones gain little.
        deflate_min: usize = 256 in number(0..=1_048_576), Alive;
        /// Level of the compression, from the fastest to the one that compresses most. docs/adr/0013-permessage-deflate.md has what they cost.
        deflate_level: u8 = 2 in number(1..=9), Alive;
        /// Origins of pages that may connect, by WebSocket or event stream, like `"https://example.com"` or `"http://localhost:3000"`. `*` stands
        /// for labels at the left (`"https://*.example.com"`, without example.com itself) or for any port
        /// (`"http://localhost:*"`); `"null"` is a page without an origin. Others are answered with 403. []: all.
        /// Clients that send no origin, which are no browsers, always may.
        origins: Vec<OriginPattern> = [] in list(Origins), Alive;
    }

    /// Certificates of the listeners that speak TLS. SIGHUP reads the files again.
    tls: Tls {
        /// PEM files, each with a certificate and the chain below its root. The client's SNI chooses among
        /// the names in them; the first one serves clients that name no server.
        certificates: Vec<PathBuf> = [] in list(Files), Alive;
        /// PEM files with the private keys of certificates, as many and in the same order.
        keys: Vec<PathBuf> = [] in list(Files), Alive;
        /// The oldest version spoken.
        min_version: TlsVersion = "1.2" in OneOf, Alive;
    }

    /// The services for push callers.
    push: Push {
        /// Addresses of the gRPC service, each "HOST:PORT", "tls:HOST:PORT" or "unix:/PATH"; []: none. Callers need one of the tokens, if there are any.
        grpc: Vec<Address> = ["127.0.0.1:8083"] in ApiAddresses, AtStart;
        /// Addresses of the HTTP push API of goim's logic; []: none. Callers need one of the tokens, if there are any.
        http: Vec<Address> = ["127.0.0.1:7172"] in ApiAddresses, AtStart;
        /// Addresses of the frames for push callers, each "HOST:PORT" or "unix:/PATH"; []: none. It is the cheapest way to push: the data
        /// cores take the pushes themselves. docs/PROTOCOL.md has the form.
        frames: Vec<Address> = [] in ApiAddresses, AtStart;
        /// Tokens of callers, of which each call has to send one (`Authorization: Bearer TOKEN`); []: nobody is
        /// asked for one. Checks of health need none.
        tokens: Vec<String> = [] in Secret(list(Tokens)), Alive;
        /// Whether addresses that other hosts reach may be open to all of them, without a token or a certificate.
        insecure: bool = false in Switch, AtStart;
        /// Largest body a caller may push, bytes. goim's job sends up to 20 messages of a room as one, and goim takes
        /// 4 MiB. With 26 bytes of headers it has to fit protocol.outbox_bytes and limits.outbox_memory.
        frame_max: usize = "4MiB" in size(KIB..=64 * MIB), AtStart;
        /// Keys, users, or rooms to be asked about, that a caller may name in one call.
        keys_max: usize = 10000 in number(1..=1_000_000), AtStart;
        /// How long a call may take.
        timeout: Duration = "5s" in duration(TIMEOUT), AtStart;
        /// Whether each call at these addresses, and at logic_server.http, is a line of the log, at level info.
        access_log: bool = false in Switch, Alive;
    }

    /// Health, metrics and profiles.
    monitor: Monitor {
        /// Addresses of GET /healthz, /metrics, /stat, /connections, /members, /history and /top; []: none. With rules of history,
        /// /history has the bodies of the pushes that rooms keep.
        stat: Vec<Address> = ["127.0.0.1:6972"] in ApiAddresses, AtStart;
        /// Addresses of GET /debug/pprof/ and of the log's level; []: none. Profiles take CPU time.
        pprof: Vec<Address> = ["127.0.0.1:6971"] in ApiAddresses, AtStart;
        /// Tokens of callers, of which each call has to send one (`Authorization: Bearer TOKEN`); []: nobody is
        /// asked for one. Checks of health need none.
        tokens: Vec<String> = [] in Secret(list(Tokens)), Alive;
        /// Whether addresses that other hosts reach may be open to all of them, without a token or a certificate.
        insecure: bool = false in Switch, AtStart;
    }

    /// TLS of the APIs: of addresses that begin with "tls:", and of the calls to such addresses. `comet logic` has the same
    /// keys. SIGHUP reads the files again.
    api_tls: ApiTls {
        /// PEM file with the certificate that callers are shown, and the chain below its root. Servers that ask for one
        /// are shown it, too. "": none.
        certificate: Option<PathBuf> = "" in FileOrNone, Alive;
        /// PEM file with its private key.
        key: Option<PathBuf> = "" in FileOrNone, Alive;
        /// PEM file with the authorities of callers: only those with a certificate that one of them signed may call.
        /// "": no certificate is asked for.
        client_ca: Option<PathBuf> = "" in FileOrNone, Alive;
        /// PEM file with the authorities of the servers that are called: logic, and the comets of `comet logic`. "":
        /// those of the system.
        server_ca: Option<PathBuf> = "" in FileOrNone, Alive;
    }

    /// Limits of every client connection. A change holds for open connections too, from their next frame or
    /// deadline.
    protocol: Protocol {
        /// Time from accept until the client is authenticated.
        handshake_timeout: Duration = "5s" in duration(TIMEOUT), Alive;
        /// How long a client may accept no byte while bytes wait for it.
        write_timeout: Duration = "5s" in duration(TIMEOUT), Alive;
        /// Time without a heartbeat after which a client is closed. Logic can name another one for each client. Another
        /// value holds for clients that log in from then on: the others were told the former one.
        heartbeat: Duration = "5m" in duration(SECOND..=DAY), Alive;
        /// How long heartbeats may wait to be answered together, while clients send nothing else. At most a
        /// quarter of heartbeat, and of every one that logic names. Cores whose clients idle wake up less
        /// often. Pushes and new connections do not wait. Clients that give up on a heartbeat without an answer, as the
        /// browser client does after 10 seconds, have to be more patient than this.
        heartbeat_coalesce: Duration = "25ms" in duration(ZERO..=10 * SECOND), Alive;
        /// How long a close notice may take before the connection is cut.
        linger: Duration = "2s" in duration(TIMEOUT), Alive;
        /// Largest frame body from a client, bytes.
        body_max: usize = "4KiB" in size(1..=MIB), Alive;
        /// Pushes that may wait for one client. Then slow_consumer decides. A core takes at most half as many,
        /// and at most 256, before it sends: one that is fully loaded with small messages needs 512.
        svr_proto: u16 = 512 in number(1..=65_535), Alive;
        /// Bytes that may wait for one client. Then slow_consumer decides. Pushes are shared between the
        /// clients they wait for, so this is not memory that each client takes. The largest push has to fit
        /// (push.frame_max).
        outbox_bytes: u32 = "8MiB" in size(2 * KIB..=GIB), Alive;
        /// Replies that may wait for one client beside the pushes. A client that asks for more before it has
        /// read them, or in one go, is closed.
        cli_proto: u16 = 256 in number(1..=65_535), Alive;
        /// What happens to a push to a client whose outbox is full. Each outcome is counted.
        slow_consumer: SlowConsumer = "drop-newest" in OneOf, Alive;
        /// Whether pushes to a room reach only clients that accept their operation. goim: false.
        filter_rooms: bool = false in Switch, Alive;
        /// Whether clients of protocol 1 get the close notice (operation 6) as well. goim's never do: its JavaScript
        /// client takes it for a message. They are told by the close frame alone, over TCP by nothing. Clients of
        /// protocol 2 always get it.
        goodbye: bool = false in Switch, Alive;
    }

    /// Pushes that wait for others, so that a client gets several in one send. Each table is a rule. The first rule that
    /// covers a push applies; a push that no rule covers does not wait. A call is answered when its pushes have left.
    coalesce: Coalesce {
        /// `rooms`: a prefix of room ids, "" for all rooms. `operations`: a list; the rule covers pushes with one of them. A
        /// rule has at least one of both; without rooms it covers broadcasts as well. `window`: how long a push waits at most.
        /// `keep_latest`: whether only the newest of the waiting pushes with the same collapse_id is sent. The others count
        /// as superseded.
        rules: Vec<CoalesceRule> = [] in CoalesceRules, Alive;
    }

    /// Rooms that keep their last pushes. A client of protocol 2 that comes back with its position gets what it missed. Each
    /// table is a rule. The first rule that covers a room applies; a room that no rule covers keeps nothing. All rooms of a
    /// core together keep limits.history_memory at most.
    history: History {
        /// `rooms`: a prefix of room ids, "" for all rooms. `pushes`, `bytes`, `age`: how many pushes a room keeps, in
        /// how many bytes, and for how long. A client that was away for longer than these limits allow has to load the room's
        /// state from your backend.
        rules: Vec<HistoryRule> = [] in HistoryRules, Alive;
    }

    /// Sessions that outlast their connection: what is pushed to a key, or to its user, while it has no connection waits for
    /// the next one. Clients of protocol 2 that have a key of their own ask for it. A goodbye of the client ends its session at
    /// once, and so does a close by the server, except for heartbeat_timeout and write_timeout. A younger connection of the same
    /// user and key takes the session over.
    resume: Resume {
        /// How long a session outlasts its connection. "0s": not at all.
        window: Duration = "0s" in duration(ZERO..=HOUR), Alive;
        /// Pushes that are parked for a session. One more is dropped and counted as parked_full.
        messages: u32 = 128 in number(1..=65_535), Alive;
        /// Bytes of the pushes that are parked for a session.
        bytes: u32 = "256KiB" in size(KIB..=GIB), Alive;
        /// Memory that the parked sessions of a core may take together. Beyond it nothing more is parked.
        memory: usize = "64MiB" in size(MIB..=1024 * GIB), Alive;
        /// Whether the sessions of all clients with a key of their own are kept, also of those that do not ask for it.
        all: bool = false in Switch, Alive;
    }

    /// Rooms whose members are told who enters and leaves. Each table is a rule. The first rule that covers a room applies.
    presence: Presence {
        /// `rooms`: a prefix of room ids, "" for all rooms. `operation`: the operation of the pushes that tell, whose body is
        /// JSON. `window`: how long changes are gathered into one push. `names`: how many that entered, and how many that
        /// left, a push names at most.
        rules: Vec<PresenceRule> = [] in PresenceRules, Alive;
    }

    /// Bounds of one data core.
    limits: Limits {
        /// Connections a data core holds, and at most its share of the limit on open files. 0: that share.
        connections: u32 = 0 in number(0..=16 << 20), Alive;
        /// Memory that this process may take, as the kernel counts what it has in RAM. Beyond it new clients are refused,
        /// and an eighth beyond it pushes as well. 0: nine tenths of what the machine has, or the control group.
        memory: u64 = 0 in size(0..=1024 * GIB), Alive;
        /// Memory that the outboxes of a core may take together. A push that several clients wait for counts once.
        /// Beyond it every client that has something to take counts as full (slow_consumer), and an eighth beyond it every
        /// client.
        outbox_memory: u64 = "1GiB" in size(MIB..=1024 * GIB), Alive;
        /// Memory that the histories of rooms take on a core, if there are rules of history. Beyond it rooms that had no push
        /// for the longest time lose theirs first.
        history_memory: usize = "64MiB" in size(MIB..=1024 * GIB), Alive;
        /// Pushes in the inbox of a core, and as many other messages beside them. Push callers wait when it is full.
        mesh_inbox: usize = 4096 in number(16..=1 << 20), AtStart;
        /// Messages a core keeps for another one whose inbox is full. More pushes are dropped and counted as mesh_full.
        mesh_backlog: usize = 65536 in number(16..=16 << 20), Alive;
        /// Receive buffers that all connections of a core share.
        recv_buffers: u16 = 512 in power_of_two(RING), AtStart;
        /// Size of one receive buffer, bytes.
        recv_buffer_size: u32 = "2KiB" in size(256..=64 * KIB), AtStart;
        /// Entries of a core's io_uring, so many sends go into one system call.
        ring_entries: u32 = 1024 in power_of_two(RING), AtStart;
    }

    /// Limits on clients, so that one of them, or many from one place, cannot take what belongs to all. A
    /// client beyond a limit is closed with its reason and a time to wait. Beyond accepts connections wait; beyond rooms the
    /// request is refused.
    clients: Clients {
        /// Connections of one address, over all cores; 0: any number. Clients behind one NAT share an address,
        /// and without tcp.proxy_from all clients of a load balancer do.
        per_address: u32 = 0 in number(0..=16 << 20), Alive;
        /// Connections of one subnet; 0: any number.
        per_subnet: u32 = 0 in number(0..=16 << 20), Alive;
        /// Prefix length of a subnet of IPv4.
        subnet_v4: u8 = 24 in number(0..=32), AtStart;
        /// Prefix length of a subnet of IPv6.
        subnet_v6: u8 = 64 in number(0..=128), AtStart;
        /// Networks, like "10.0.0.0/8", whose connections are not counted by address and subnet.
        exempt: Vec<Network> = [] in list(Networks), Alive;
        /// Connections accepted in a second, over all cores; 0: any number. More wait in the backlog.
        accepts: u32 = 0 in number(0..=16 << 20), Alive;
        /// Connections that have not authenticated, over all cores. One more closes the oldest of its core.
        handshakes: u32 = 65536 in number(1..=16 << 20), Alive;
        /// Frames of one client in a second, on average over 10 seconds; 0: any number. Pings are frames as well. Time in
        /// which the server was late to read them is added to the 10 seconds.
        frames: u32 = 0 in number(0..=1 << 20), Alive;
        /// Bytes of one client in a second, on average over 10 seconds; 0: any number.
        bytes: u32 = 0 in size(0..=GIB), Alive;
        /// Changes of the room by one client in a second, on average over 10 seconds; 0: any number. A client that reconnects
        /// enters all its rooms again: allow at least a tenth of their number.
        room_changes: u32 = 0 in number(0..=1 << 20), Alive;
        /// Rooms that a connection of protocol 2 may be in at once. A request to enter one more is refused.
        rooms: u16 = 128 in number(1..=1024), Alive;
        /// Sessions that one user may have at once. One more is closed with too_many_sessions.
        user_sessions: u32 = 10_000 in number(1..=1 << 20), Alive;
    }

    /// The directory of keys and users.
    bucket: Bucket {
        /// Maps the directory is split into, for the whole process.
        count: usize = 1024 in number(1..=1 << 20), AtStart;
        /// How long the numbers of a user's sessions count on after the last one ended. "0s": they begin at 1
        /// again at once.
        user_memory: Duration = "0s" in duration(ZERO..=DAY), Alive;
    }

    /// The logic service, which authenticates clients.
    logic: Logic {
        /// HOST:PORT, tls:HOST:PORT or unix:/PATH of the logic services. Calls are spread over those that answer; names
        /// are resolved for each connection. []: comet is its own logic, and `[token]` describes the tokens it takes; a
        /// change from or to that waits for the next start.
        addrs: Vec<String> = [] in list(Peers), Alive;
        /// The token that logic asks for (logic_server.tokens). "": none.
        token: Option<String> = "" in Secret(TokenOrNone), AtStart;
        /// How long a call may take.
        timeout: Duration = "2s" in duration(TENTH..=MINUTE), AtStart;
        /// Most calls under way. Further ones are refused.
        calls: usize = 4096 in number(1..=1 << 20), AtStart;
        /// How often each address is pinged.
        ping: Duration = "1s" in duration(TENTH..=MINUTE), AtStart;
        /// How often the number of connections in each room is reported to logic, which believes it for 5
        /// minutes: one report may be lost.
        renew: Duration = "10s" in duration(TENTH..=2 * MINUTE), AtStart;
        /// Shortest time between two heartbeats of a connection towards logic. Each time is random.
        heartbeat_min: Duration = "10m" in duration(TENTH..=DAY), AtStart;
        /// Longest time between two of them; not shorter than heartbeat_min.
        heartbeat_max: Duration = "30m" in duration(TENTH..=DAY), AtStart;
        /// Clients refused because no logic service is available are asked to wait a random time from half of this up
        /// to it. "0s": no time is named.
        retry_after: Duration = "5s" in duration(ZERO..=HOUR), AtStart;
        /// What the gRPC code UNKNOWN means: the code of errors without one, as those of goim's logic.
        unknown: UnknownCode = "refuse" in OneOf, AtStart;
    }

    /// bilibili/discovery: comet registers there, so that goim's logic and job find it, and `comet logic` finds its comets
    /// there. docs/OPERATIONS.md has more.
    discovery: Discovery {
        /// HOST:PORT of the nodes; names are resolved for each request. []: comet is not registered, and `comet logic` knows
        /// the comets of logic_server.comets alone.
        nodes: Vec<String> = [] in list(Places), AtStart;
        /// The region that the zone is in.
        region: String = "" in Text::NAME, AtStart;
        /// The zone that this server is in. Needed with nodes.
        zone: String = "" in Text::NAME, AtStart;
        /// The environment, such as "prod": logic and job find comets of their own one, and so does `comet logic`. Needed
        /// with nodes.
        env: String = "" in Text::NAME, AtStart;
        /// HOST:PORT by which job reaches push.grpc. []: the addresses in push.grpc that are not a Unix socket.
        grpc: Vec<String> = [] in list(Places), AtStart;
        /// Hosts, as names or addresses, that logic tells clients to connect to. []: server.domain.
        addrs: Vec<String> = [] in list(ClientHosts), AtStart;
    }

    /// NATS: hosts that push for each other. A push to any of them reaches the clients of all. docs/NATS.md has more.
    nats: Nats {
        /// URLs of the servers of one NATS cluster, as nats://HOST:PORT, or tls://HOST:PORT. []: this host is alone.
        servers: Vec<String> = [] in list(NatsUrls), AtStart;
        /// What all subjects begin with. Hosts with the same one push for each other.
        prefix: String = "comet" in Text::SUBJECT, AtStart;
        /// Which pushes to rooms come to this host. "subscribed": those to rooms with members here, for some 5 KiB of memory a
        /// room. "all": all of them, for a look at each.
        rooms: NatsRooms = "subscribed" in OneOf, AtStart;
        /// Whether a key that a token or logic names has one connection on all hosts, the younger one. false: one on each host.
        sessions: bool = true in Switch, AtStart;
        /// Who keeps the histories of rooms. "host": each host its own, and a client that comes back to another one loads its
        /// rooms anew. "jetstream": a stream of NATS, so that any host recovers any client. All hosts have to have the same.
        history: HistoryStore = "host" in OneOf, AtStart;
        /// Bytes of that stream, if it is not there yet. A push too many takes the place of the oldest of all rooms.
        history_bytes: u64 = "1GiB" in size(MIB..=1024 * GIB), AtStart;
        /// Servers of NATS that keep a copy of that stream, if it is not there yet.
        history_replicas: usize = 1 in number(1..=5), AtStart;
        /// The user that the servers know this host as, with password. "": none.
        user: Option<String> = "" in TextOrNone, AtStart;
        /// The password of user.
        password: Option<String> = "" in Secret(TextOrNone), AtStart;
        /// The seed of an nkey, which begins with SU. "": none.
        nkey: Option<String> = "" in Secret(TextOrNone), AtStart;
        /// A credentials file, with a JWT and a seed. "": none.
        credentials: Option<PathBuf> = "" in FileOrNone, AtStart;
        /// PEM files with the authorities that sign the servers' certificates. []: those of the system.
        authorities: Vec<PathBuf> = [] in list(Files), AtStart;
    }

    /// Spans of pushes whose callers trace them. docs/OPERATIONS.md has more.
    trace: Trace {
        /// The URL of a collector of OpenTelemetry that takes OTLP over HTTP, such as "http://127.0.0.1:4318". "": none, and
        /// no push is traced.
        otlp: Option<String> = "" in UrlOrNone, AtStart;
    }

    /// The form of tokens where comet is its own logic, and for `comet logic`.
    token: Token {
        /// The form of a token.
        kind: TokenKind = "open" in OneOf, AtStart;
        /// Files with keys: .jwks and .json are key sets (RFC 7517), PEM is a public key, anything else is an
        /// HMAC secret.
        jwt_keys: Vec<PathBuf> = [] in list(Files), Alive;
        /// URLs of key sets (RFC 7517), which are fetched at start, and again while comet runs: https://, or http://
        /// of this host.
        jwks_urls: Vec<String> = [] in Secret(list(KeyUrls)), AtStart;
        /// After how long a key set is fetched again, at the latest.
        jwks_refresh: Duration = "5m" in duration(10 * SECOND..=DAY), AtStart;
        /// Signatures that are accepted.
        jwt_algorithms: Vec<Algorithm> = ["HS256", "RS256", "ES256", "EdDSA"] in AnyOf, AtStart;
        /// What happens to a connection when its token expires.
        expiry: TokenExpiry = "close" in OneOf, AtStart;
        /// The required value of the claim iss. "": any, or no claim.
        issuer: Option<String> = "" in TextOrNone, AtStart;
        /// The audience that the claim aud has to name. "": any, or no claim.
        audience: Option<String> = "" in TextOrNone, AtStart;
        /// The claim that holds the user id.
        mid: String = "mid" in Text::CLAIM, AtStart;
        /// The claim that holds the connection's key.
        key: String = "key" in Text::CLAIM, AtStart;
        /// The claim that holds the room.
        room: String = "room_id" in Text::CLAIM, AtStart;
        /// The claim that holds the list of further rooms.
        rooms: String = "rooms" in Text::CLAIM, AtStart;
        /// The claim that holds the list of operations that the client accepts.
        accepts: String = "accepts" in Text::CLAIM, AtStart;
    }

    /// The trace list: users whose connections and frames are written to the trace log.
    white_list: WhiteList {
        /// Ids of the users. With any, file is needed.
        users: Vec<i64> = [] in Users { most: TRACE_USERS_MAX }, Alive;
        /// The trace log. Lines are appended, and SIGHUP opens it again. "": none.
        file: Option<PathBuf> = "" in FileOrNone, Alive;
    }

    /// `comet logic`, a process of its own that is the logic service of other comets. The server does not use
    /// these keys.
    logic_server: LogicServer {
        /// Addresses of goim.logic.Logic; []: none.
        grpc: Vec<Address> = ["127.0.0.1:7170"] in ApiAddresses, InLogic;
        /// Addresses of the HTTP push API; []: none. Callers need one of the tokens, if there are any.
        http: Vec<Address> = ["127.0.0.1:7173"] in ApiAddresses, InLogic;
        /// Addresses of GET /healthz and /metrics; []: none.
        stat: Vec<Address> = ["127.0.0.1:6973"] in ApiAddresses, InLogic;
        /// Tokens of callers, of which each call has to send one (`Authorization: Bearer TOKEN`); []: nobody is
        /// asked for one. Checks of health need none.
        tokens: Vec<String> = [] in Secret(list(Tokens)), AliveInLogic;
        /// Whether addresses that other hosts reach may be open to all of them, without a token or a certificate.
        insecure: bool = false in Switch, InLogic;
        /// The token that comets ask for (their push.tokens). "": none.
        comet_token: Option<String> = "" in Secret(TokenOrNone), InLogic;
        /// The comets that pushes go to, each "SERVER-ID=HOST:PORT" of its push.grpc, which may be tls:HOST:PORT or
        /// unix:/PATH as well. Ids are unique. Those of discovery come beside them (discovery.nodes).
        comets: Vec<(String, String)> = [] in list(Comets), AliveInLogic;
        /// Where clients connect to these comets: each "SERVER-ID=HOST" or "SERVER-ID=HOST*WEIGHT", with the public name or
        /// address and a weight of 1 to 10000, which is 1 if not given. Comets are told to clients in the order of their
        /// sessions per weight. A comet that is not named has the host of its push.grpc.
        nodes: Vec<(String, String, u32)> = [] in list(Nodes), AliveInLogic;
        /// Time without a heartbeat after which comets close clients that this service authenticated.
        /// "0s": protocol.heartbeat of this file.
        heartbeat: Duration = "0s" in zero_or(SECOND..=DAY), InLogic;
        /// Where sessions are kept.
        store: SessionStore = "memory" in OneOf, InLogic;
        /// redis://USER:PASSWORD@HOST:PORT/DATABASE of the Redis servers, of which HOST:PORT is required; rediss:// with
        /// TLS. Behind sentinels redis+sentinel://USER:PASSWORD@HOST:PORT,.../MASTER/DATABASE, or rediss+sentinel://. Users are
        /// spread over several servers by a hash of their id.
        redis: Vec<String> = ["redis://127.0.0.1:6379"] in Secret(list(RedisUrls)), InLogic;
        /// The authorities that may sign the certificates of rediss, as PEM. "": those of the system.
        redis_ca: Option<PathBuf> = "" in FileOrNone, InLogic;
        /// Time after its last renewal after which a session is forgotten.
        expire: Duration = "1h" in duration(SECOND..=DAY), InLogic;
    }

    /// The log.
    log: Log {
        /// Least severe messages to write.
        level: LogLevel = "info" in OneOf, Alive;
        /// The form of its lines, and of those of the trace log.
        format: LogFormat = "text" in OneOf, AtStart;
        /// The file of the log, written at its end. SIGHUP opens it again, for logrotate. "": standard error.
        file: Option<PathBuf> = "" in FileOrNone, AtStart;
    }
}
