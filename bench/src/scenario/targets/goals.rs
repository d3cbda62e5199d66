//! All goals of the project, and the figures for comparison: number of the target, name in the file (which never
//! changes), bound, unit and decimals, the quantity measured, and how the figure is computed.

use super::goal::{Goal, RATIO, Reach, US, at_least, at_most, goal};

const MILLIONS: (&str, usize) = ("M/s", 2);
const MS: (&str, usize) = ("ms", 1);
const FLOOR: &str = "  floor: the ring, and a bare gRPC server for the calls";
const CACHES: &str = "which has the CPU and its caches to itself";
const RING: &str = "CPU of a delivery, all threads / bare ring loop";
const RSS: &str = "growth of RSS from 200 connections on";
const CONNECT: &str = "CPU of a connection, all threads / a bare ring's: accept, recv, send; WebSocket one more of both";
const RATE: &str = "one data core, the bench on another CPU";
const FLOOD: &str = "messages received a second; pushed through one stream; control thread and bench on another CPU";
const FLOOD_CORE: &str = "what the data core could do that never waits for the bench";
const CALL: &str = "CPU of a call, all threads";
const ECHO: &str = "CPU of a round trip";
const DUE: &str = "from due to received";
const RETURN: &str = "CPU of a connection, all threads, until all has come / of a plain reconnect";

// Stage `sizes`.
pub(super) const SINGLE_FEW: Goal = goal(1, "single_1000", at_most(1.10), RATIO, "single messages, 1,000 connections", RING);
pub(super) const SINGLE_FEW_FLOOR: Goal = goal(1, "single_1000_floor", None, RATIO, FLOOR, CACHES);
pub(super) const SINGLE_MANY: Goal = goal(1, "single_15000", at_most(1.10), RATIO, "single messages, 15,000 connections", RING);
pub(super) const BATCHES: Goal = goal(2, "batch_1000", at_most(1.15), RATIO, "batches of 20 frames, 1,000 connections", "CPU of a message, all threads / bare ring loop sending the same bytes");
pub(super) const BATCHES_FLOOR: Goal = goal(2, "batch_1000_floor", None, RATIO, FLOOR, CACHES);
pub(super) const RSS_TCP: Goal = goal(5, "rss_tcp", at_most(512.0), ("B", 0), "memory of an idle TCP connection, 15,000", RSS);
pub(super) const RSS_WEBSOCKET: Goal = goal(5, "rss_websocket", at_most(512.0), ("B", 0), "memory of an idle WebSocket connection, 15,000", RSS);
pub(super) const IDLE: Goal = goal(6, "idle", Some(Reach::Below(1.0)), ("%", 2), "15,000 idle connections, heartbeat each 60 s", "share of one CPU, all threads");
pub(super) const CONNECT_TCP: Goal = goal(7, "connect_tcp", at_most(1.5), RATIO, "connect to registered, TCP", CONNECT);
pub(super) const CONNECT_WEBSOCKET: Goal = goal(7, "connect_websocket", at_most(1.5), RATIO, "connect to registered, WebSocket", CONNECT);
pub(super) const CONNECT_RATE_TCP: Goal = goal(7, "connect_rate_tcp", at_least(20_000.0), ("/s", 0), "connections a second, TCP", RATE);
pub(super) const CONNECT_RATE_WEBSOCKET: Goal = goal(7, "connect_rate_websocket", at_least(20_000.0), ("/s", 0), "connections a second, WebSocket", RATE);
pub(super) const GROWTH_CONNECTIONS: Goal = goal(11, "growth_connections", at_most(1.25), RATIO, "cost growth, 1,000 to 15,000 connections", "growth of CPU of a delivery / growth of the bare ring loop's");
pub(super) const SIZES: [Goal; 13] = [
    SINGLE_FEW, SINGLE_FEW_FLOOR, SINGLE_MANY, BATCHES, BATCHES_FLOOR, RSS_TCP, RSS_WEBSOCKET, IDLE,
    CONNECT_TCP, CONNECT_WEBSOCKET, CONNECT_RATE_TCP, CONNECT_RATE_WEBSOCKET, GROWTH_CONNECTIONS,
];

// Stage `flood`.
pub(super) const FLOOD_BATCHES: Goal = goal(3, "flood_batches", at_least(36.0), MILLIONS, "flat out, room of 1,000, batches of 20, 10-byte bodies", FLOOD);
pub(super) const FLOOD_BATCHES_CORE: Goal = goal(3, "flood_batches_core", None, MILLIONS, "the same for a second of the data core's CPU", FLOOD_CORE);
pub(super) const FLOOD_SINGLE: Goal = goal(4, "flood_single", at_least(5.0), MILLIONS, "flat out, room of 1,000, single-message pushes", FLOOD);
pub(super) const FLOOD_SINGLE_CORE: Goal = goal(4, "flood_single_core", None, MILLIONS, "the same for a second of the data core's CPU", FLOOD_CORE);
pub(super) const FLOODS: [Goal; 4] = [FLOOD_BATCHES, FLOOD_BATCHES_CORE, FLOOD_SINGLE, FLOOD_SINGLE_CORE];

// Stage `keys`.
pub(super) const PACED: Goal = goal(8, "key_paced", at_most(40.0), US, "push by key, 2,000 calls a second", CALL);
pub(super) const PACED_GRPC: Goal = goal(8, "key_paced_grpc_floor", None, US, "  floor: a bare gRPC server, the same calls", CALL);
pub(super) const PACED_ECHO: Goal = goal(8, "key_paced_echo_floor", None, US, "  floor: the ping-pong's server, 2,000 a second", ECHO);
pub(super) const FLAT_OUT: Goal = goal(8, "key_flat_out", at_most(20.0), US, "push by key, at saturation", CALL);
pub(super) const FLAT_OUT_GRPC: Goal = goal(8, "key_flat_out_grpc_floor", None, US, "  floor: a bare gRPC server, at saturation", CALL);
pub(super) const FLAT_OUT_ECHO: Goal = goal(8, "key_flat_out_echo_floor", None, US, "  floor: the ping-pong's server, one after the other", ECHO);
pub(super) const MANY: Goal = goal(8, "key_500_callers", at_most(2.0), ("us", 2), "push to 500 keys a call, at saturation", "CPU of a key, all threads; 8 callers, each waits for its last answer");
pub(super) const MANY_ONE: Goal = goal(8, "key_500", None, ("us", 2), "  the same, one caller", "CPU of a key: a send each, as nothing is there to join with");
pub(super) const STREAM: Goal = goal(8, "key_stream", None, US, "push by key through one stream, at saturation", "CPU of a push, all threads");
pub(super) const P50: Goal = goal(9, "key_p50", at_most(4.0), RATIO, "push by key, p50, 2,000 a second", "from due to received / round trip of the bare ping-pong, 2,000 a second");
pub(super) const P99: Goal = goal(9, "key_p99", at_most(10.0), RATIO, "push by key, p99, 2,000 a second", "from due to received / from due to the end of the ping-pong's round trip");
pub(super) const P50_US: Goal = goal(9, "key_p50_us", None, ("us", 0), "  p50", "from due to received");
pub(super) const P99_US: Goal = goal(9, "key_p99_us", None, ("us", 0), "  p99", "from due to received");
pub(super) const P99_ECHO_US: Goal = goal(9, "key_p99_echo_us", None, ("us", 0), "  p99 of the ping-pong", "from due to the end of its round trip");
pub(super) const KEYS: [Goal; 14] = [
    PACED, PACED_GRPC, PACED_ECHO, FLAT_OUT, FLAT_OUT_GRPC, FLAT_OUT_ECHO, MANY, MANY_ONE, STREAM,
    P50, P99, P50_US, P99_US, P99_ECHO_US,
];

// Stage `cores`.
pub(super) const TWO_CORES: Goal = goal(10, "two_cores", at_most(1.05), RATIO, "two data cores against one, 8 rooms", "data cores' CPU of a delivery / mean of one core's on either of the two CPUs");
pub(super) const TWO_CORES_ALL: Goal = goal(10, "two_cores_all_threads", None, RATIO, "the same, all threads", "with the control thread, which has two cores to ask");
pub(super) const CORES: [Goal; 2] = [TWO_CORES, TWO_CORES_ALL];

// Stage `rooms`.
pub(super) const GROWTH_ROOMS: Goal = goal(11, "growth_rooms", at_most(1.25), RATIO, "cost growth, 1 to 10,000 rooms of one", "growth of CPU of a push, all threads / the bare ring loop's, one socket to another each time");
pub(super) const GROWTH_ROOMS_DATA: Goal = goal(11, "growth_rooms_data", None, RATIO, "the same, data core", "without the control thread");
pub(super) const ROOMS: [Goal; 2] = [GROWTH_ROOMS, GROWTH_ROOMS_DATA];

// Stage `doors`.
const TENS: &str = "CPU of a push, all threads / a bare ring's that receives one message and sends ten";
const TENS_FLOOR: &str = "CPU of a push to ten, which that ring sends on the thread that has received it / without gRPC";
const ONES: &str = "CPU of a push, all threads / of a round trip of the ping-pong's server";
pub(super) const TENS_FRAMES: Goal = goal(12, "tens_frames", at_most(1.2), RATIO, "1,000 rooms of 10, 1,000 pushes a second, push frames", TENS);
pub(super) const TENS_STREAM: Goal = goal(12, "tens_stream", at_most(1.2), RATIO, "  the same, one PushStream", TENS);
pub(super) const TENS_CALLS: Goal = goal(12, "tens_calls", at_most(1.5), RATIO, "  the same, calls", TENS);
pub(super) const TENS_RING: Goal = goal(12, "tens_ring_floor", None, US, "  floor: that ring", "CPU of a message to ten");
pub(super) const TENS_STREAM_FLOOR: Goal = goal(12, "tens_stream_floor", None, RATIO, "  floor: one stream to a bare gRPC server", TENS_FLOOR);
pub(super) const TENS_CALLS_FLOOR: Goal = goal(12, "tens_calls_floor", None, RATIO, "  floor: calls to it", TENS_FLOOR);
pub(super) const ONES_FRAMES: Goal = goal(12, "ones_frames", at_most(1.5), RATIO, "push by key, 2,000 a second, push frames", ONES);
pub(super) const ONES_STREAM: Goal = goal(12, "ones_stream", None, RATIO, "  the same, one PushStream", ONES);
pub(super) const ONES_CALLS: Goal = goal(12, "ones_calls", None, RATIO, "  the same, calls", ONES);
pub(super) const ONES_FRAMES_RING: Goal = goal(12, "ones_frames_ring", None, RATIO, "  the same by frames", "CPU of a push, all threads / a bare ring's that receives one message, sends it to one and answers");
pub(super) const ONES_ECHO: Goal = goal(12, "ones_echo_floor", None, US, "  floor: the ping-pong's server, one send", ECHO);
pub(super) const ONES_RING: Goal = goal(12, "ones_ring_floor", None, US, "  floor: that ring, two sends", "CPU of a message");
pub(super) const DOORS: [Goal; 12] = [
    TENS_FRAMES, TENS_STREAM, TENS_CALLS, TENS_RING, TENS_STREAM_FLOOR, TENS_CALLS_FLOOR, ONES_FRAMES, ONES_STREAM, ONES_CALLS,
    ONES_FRAMES_RING, ONES_ECHO, ONES_RING,
];

// Stage `pairs`.
const PAIR: &str = "growth by 990,000 joins, of 10,000 connections";
pub(super) const PAIR_HEAP: Goal = goal(15, "pair_heap", at_most(20.0), ("B", 1), "heap of a pair of a connection and a room, 100 rooms each", PAIR);
pub(super) const PAIR_RSS: Goal = goal(15, "pair_rss", None, ("B", 1), "  the same of RSS", PAIR);
pub(super) const JOINS: Goal = goal(15, "joins_core", at_least(0.5), MILLIONS, "joins for a second of the data core's CPU", "100 of each connection at once, until the server has settled");
pub(super) const JOINS_RATE: Goal = goal(15, "joins_rate", None, MILLIONS, "  joins a second", RATE);
pub(super) const MANY_ROOMS: Goal = goal(15, "many_rooms", at_most(1.25), RATIO, "push to a room of 1,000 whose members are in 100 rooms", "CPU of a delivery, all threads / the same while its members are in one");
pub(super) const PAIRS: [Goal; 5] = [PAIR_HEAP, PAIR_RSS, JOINS, JOINS_RATE, MANY_ROOMS];

// Stage `beside`.
pub(super) const BESIDE: Goal = goal(14, "beside_crowd", at_most(6.0), MS, "push by key beside a room of 12,000, p99", "pushed to twice a second; above its quiet value");
pub(super) const BESIDE_QUIET: Goal = goal(14, "beside_crowd_quiet", None, MS, "  quiet value, p99", DUE);
pub(super) const BESIDES: [Goal; 2] = [BESIDE, BESIDE_QUIET];

// Stage `parked`.
pub(super) const RETURN_TO_ROOMS: Goal = goal(16, "return_to_rooms", at_most(2.0), RATIO, "return of 15,000 clients to 15 rooms with 100 missed pushes", RETURN);
pub(super) const RETURN_TO_SESSIONS: Goal = goal(16, "return_to_sessions", at_most(2.0), RATIO, "the same to parked sessions of 100 pushes", RETURN);
pub(super) const SESSION_HEAP: Goal = goal(16, "session_heap", None, ("B", 0), "  heap of a parked session", "above that of the server that parks nothing; the pushes come on top");
pub(super) const PARKED: [Goal; 3] = [RETURN_TO_ROOMS, RETURN_TO_SESSIONS, SESSION_HEAP];

// Stage `stalled`.
pub(super) const STALLED: Goal = goal(13, "stalled", at_most(1.5), RATIO, "half of a room of 4,000 does not read, the others' p99", "of the worst policy of protocol.slow_consumer / of drop-newest; 25 pushes a second of 1 KiB");
pub(super) const STALLED_DROP_NEWEST: Goal = goal(13, "stalled_drop_newest", None, MS, "  p99, drop-newest", DUE);
pub(super) const STALLED_DROP_OLDEST: Goal = goal(13, "stalled_drop_oldest", None, MS, "  p99, drop-oldest", DUE);
pub(super) const STALLED_CLOSE: Goal = goal(13, "stalled_close", None, MS, "  p99, close", "the same; those that do not read are closed before");
pub(super) const STALLEDS: [Goal; 4] = [STALLED, STALLED_DROP_NEWEST, STALLED_DROP_OLDEST, STALLED_CLOSE];
