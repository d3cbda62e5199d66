//! Spans of pushes by the program, sent to a replacement of an OpenTelemetry collector.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use comet_client::Transport;
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastRoomReq, Ledger};
use comet_wire::goim::protocol::Proto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message;
use rustix::process::Signal;
use tonic::Request;
use tonic::transport::Channel;

use crate::logic_process::own_address;
use crate::process::{Server, line_with};
use crate::support::{Metrics, PATIENCE, queued, until};

const TRACE: [u8; 16] = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
const CALLER: [u8; 8] = 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes();
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that passes the spans to the test.
struct Collector {
    address: SocketAddr,
    spans: Receiver<Vec<Span>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, spans) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let taken = taken.clone();
                thread::spawn(move || answer(stream, &taken));
            }
        });
        Self { address, spans }
    }
}

fn set(collector: SocketAddr) -> String {
    format!(r#"trace.otlp="http://{collector}""#)
}

fn answer(stream: TcpStream, taken: &Sender<Vec<Span>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.to_ascii_lowercase());
        }
        assert_eq!(lines[0], "post /v1/traces http/1.1\r\n");
        assert!(
            lines.contains(&"content-type: application/x-protobuf\r\n".to_owned()),
            "{lines:?}"
        );
        let length = lines.iter().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        taken.send(scopes.flat_map(|scope| scope.spans).collect()).unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
}

/// Pushes over HTTP with additional headers. Returns the response.
fn post(http: SocketAddr, headers: &str) -> String {
    let path = "/goim/push/room?operation=5&type=test&room=r";
    let mut stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    write!(stream, "{head}{headers}Content-Length: 5\r\n\r\nhello").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The same push over gRPC, traced.
fn call(grpc: SocketAddr) -> Option<Ledger> {
    let proto = Proto { ver: 1, op: 5, body: b"hello".as_slice().into(), ..Proto::default() };
    let proto = Some(proto);
    let mut request = Request::new(BroadcastRoomReq { room_id: "test://r".to_owned(), proto });
    request.metadata_mut().insert("traceparent", PARENT.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Channel::from_shared(format!("http://{grpc}")).unwrap();
        let mut client = CometClient::new(endpoint.connect().await.unwrap());
        client.broadcast_room(request).await.unwrap().into_inner().ledger
    })
}

/// The address of the HTTP push API of a server.
fn http_address(server: &Server) -> SocketAddr {
    let line = line_with(&server.log, "http push [");
    line.split(['[', ']']).find_map(|part| part.parse().ok()).expect(&line)
}

fn number(span: &Span, key: &str) -> i64 {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key);
    let value = attribute.and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
    let Some(Value::IntValue(value)) = value else { panic!("{key}: {span:?}") };
    *value
}

/// Checks the spans of one push to eight members of a room.
fn check(spans: &[Span], name: &str) {
    let (call, below) = spans.split_first().unwrap();
    assert_eq!((&call.trace_id[..], &call.parent_span_id[..]), (&TRACE[..], &CALLER[..]));
    assert_eq!((call.name.as_str(), call.kind), (name, SpanKind::Server as i32));
    assert_eq!(number(call, "comet.rooms"), 1);
    assert!(call.status.is_none());
    let homes: Vec<_> = below.iter().filter(|span| span.name == "home").collect();
    let [home] = homes[..] else { panic!("{below:?}") };
    assert_eq!(home.parent_span_id, call.span_id);
    let mut queued = 0;
    for span in below {
        assert_eq!(span.trace_id, TRACE);
        assert!(span.name == "home" || span.parent_span_id == home.span_id, "{span:?}");
        assert!(call.start_time_unix_nano <= span.start_time_unix_nano);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert!(span.end_time_unix_nano <= call.end_time_unix_nano);
        assert!(number(span, "comet.shard") < 2);
        queued += number(span, "comet.queued");
    }
    assert_eq!(queued, 8);
}

#[test]
fn a_traced_push_has_spans_for_its_call_home_and_shards() {
    let collector = Collector::start();
    let server = Server::start(&[&set(collector.address)]);
    let http = http_address(&server);
    let token = r#"{"mid":7,"room_id":"test://r","platform":"web","accepts":[5]}"#;
    let clients: Vec<_> = (0..8).map(|_| server.live(Transport::Tcp, token)).collect();
    let header = format!("traceparent: {PARENT}\r\n");
    for untraced in
        ["", &header.replace("-01\r", "-00\r"), &header.replace("00-", "ff-"), &header.repeat(2)]
    {
        assert!(post(http, untraced).contains(r#""queued":8"#));
    }
    assert!(post(http, &header).contains(r#""queued":8"#));
    // The first spans belong to the traced push, as the others created none.
    let over_http = collector.spans.recv_timeout(PATIENCE).unwrap();
    check(&over_http, "goim/push/room");

    assert_eq!(call(server.grpc), Some(queued(8)));
    let over_grpc = collector.spans.recv_timeout(PATIENCE).unwrap();
    check(&over_grpc, "goim.comet.Comet/BroadcastRoom");
    let count = (over_http.len() + over_grpc.len()) as u64;
    until("the spans to be counted", || {
        Metrics::read(server.stat).value("comet_trace_spans_total") == count
    });

    // The last spans are sent before the process ends.
    call(server.grpc);
    server.signal(Signal::TERM);
    check(&collector.spans.recv_timeout(PATIENCE).unwrap(), "goim.comet.Comet/BroadcastRoom");
    drop(clients);
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(!log.iter().any(|line| line.contains("trace.otlp")), "{log:?}");
}

/// Whether the peer has not closed the connection.
fn is_open(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4_096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn a_hanging_collector_delays_no_push() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(&[&set(collector.local_addr().unwrap())]);
    until("a push to be answered while a collector hangs", || {
        call(server.grpc);
        let (stream, _) = collector.accept().unwrap();
        call(server.grpc);
        is_open(&stream)
    });
    drop(collector);
    line_with(&server.log, "trace.otlp: the collector takes no spans");
}

#[test]
fn spans_without_a_collector_are_counted_as_dropped() {
    let server = Server::start(&[&set(own_address())]);
    call(server.grpc);
    line_with(&server.log, "trace.otlp: the collector takes no spans");
    let metrics = Metrics::read(server.stat);
    assert_eq!(metrics.value("comet_trace_collector_up"), 0);
    assert_eq!(metrics.value(r#"comet_trace_spans_dropped_total{reason="refused"}"#), 2);
}
