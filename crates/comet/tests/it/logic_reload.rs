//! The configuration of `comet logic`, read again at SIGHUP.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use comet_client::Transport;
use comet_wire::goim::comet::comet_server::{Comet, CometServer};
use comet_wire::goim::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, Ledger, PushMsgReply,
    PushMsgReq, RoomsReply, RoomsReq,
};
use rustix::process::Signal;
use serde_json::json;
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::authority::Authority;
use crate::logic_process::own_address;
use crate::logic_rig::{get_data, ledger, post, request};
use crate::process::{Running, Server, comet, line_with, temporary};
use crate::support::{Metrics, until};

#[test]
fn the_last_lock_of_an_exposed_address_stays() {
    let authority = Authority::new();
    let port = own_address().port();
    let pair = authority.sets("127.0.0.1").map(|set| set.replace("api_tls.", "")).join("\n");
    let text = |authorities: &str, bind: &str, more: &str| {
        format!(
            "[api_tls]\n{pair}\n{authorities}\n[logic_server]\nhttp = []\nstat = []\n\
             grpc = [\"tls:{bind}:{port}\"]\n{more}\n"
        )
    };
    let authorities = authority.trusted("client_ca").replace("api_tls.", "");
    let tokens = "tokens = [\"a-token-that-logic-asks-for\"]";
    let file = temporary("logic-locks.toml", &text(&authorities, "0.0.0.0", ""));
    let (process, log) = Running::start(comet(&["logic", "--config", &file]));
    line_with(&log, "stat [");
    let reload = |text: String, said: &str| {
        fs::write(&file, text).unwrap();
        process.signal(Signal::HUP);
        let line = line_with(&log, "SIGHUP: ");
        assert!(line.contains(said), "{said}: {line}");
    };
    let refused = format!("tls:0.0.0.0:{port} is not loopback, and whoever reaches it may");
    // Without its lock; and with what counts from the next start on.
    reload(text("", "0.0.0.0", ""), &refused);
    reload(text("", "127.0.0.1", ""), &refused);
    reload(text("", "0.0.0.0", "insecure = true"), &refused);
    // One lock for the other.
    reload(text("", "0.0.0.0", tokens), "api_tls.client_ca changed from ");
    line_with(&log, "SIGHUP: logic_server.tokens changed from ");
    reload(text("", "127.0.0.1", ""), &refused);
    reload(text(&authorities, "0.0.0.0", ""), "api_tls.client_ca changed from ");
}

/// A comet that answers a broadcast when it is told to. As goim's, it has no health service.
pub(crate) struct HeldComet {
    asked: Sender<()>,
    answers: Arc<Semaphore>,
}

impl HeldComet {
    /// Where it is, what it is asked for, and how many calls it may answer. It serves until the test process ends.
    pub(crate) fn start() -> (SocketAddr, Receiver<()>, Arc<Semaphore>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (asked, calls) = channel();
        let answers = Arc::new(Semaphore::new(0));
        let comet = Self { asked, answers: Arc::clone(&answers) };
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let server =
                    tonic::transport::Server::builder().add_service(CometServer::new(comet));
                server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
            });
        });
        (address, calls, answers)
    }
}

#[tonic::async_trait]
impl Comet for HeldComet {
    async fn push_msg(&self, _: Request<PushMsgReq>) -> Result<Response<PushMsgReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn broadcast(
        &self,
        _: Request<BroadcastReq>,
    ) -> Result<Response<BroadcastReply>, Status> {
        let _ = self.asked.send(());
        self.answers.acquire().await.unwrap().forget();
        let ledger = Ledger { matched: 7, queued: 7, ..Ledger::default() };
        Ok(Response::new(BroadcastReply { ledger: Some(ledger) }))
    }

    async fn broadcast_room(
        &self,
        _: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[test]
fn comets_come_and_go_alive() {
    let good = Server::start(&["server.id=\"good\""]);
    let (held_at, calls, answers) = HeldComet::start();
    let (http, stat) = (own_address(), own_address());
    let text = |comets: &[&str], nodes: &str| {
        format!(
            "[push]\ntimeout = \"1m\"\n[logic_server]\ngrpc = []\nhttp = [\"{http}\"]\n\
             stat = [\"{stat}\"]\ncomets = {comets:?}\nnodes = {nodes}\n"
        )
    };
    let (held_comet, good_comet) = (format!("held={held_at}"), format!("good={}", good.grpc));
    let file = temporary("logic-comets.toml", &text(&[&held_comet], "[]"));
    let (process, log) = Running::start(comet(&["logic", "--config", &file]));
    until("comet logic to listen", || TcpStream::connect(stat).is_ok());
    let reload = |text: String, said: &str| {
        fs::write(&file, text).unwrap();
        process.signal(Signal::HUP);
        line_with(&log, said);
    };
    let is_up = |comet: &str| {
        let sample = format!("comet_logic_comet_up{{server={comet:?}}}");
        until("its health to be known", || Metrics::read(stat).value(&sample) == 1);
    };
    is_up("held");
    let mut client = good.live(Transport::Tcp, "42");

    // One more, and where its clients connect.
    let both = [&*held_comet, &*good_comet];
    reload(text(&both, "[\"good=push.example\"]"), "SIGHUP: logic_server.comets changed from ");
    line_with(&log, "SIGHUP: logic_server.nodes changed from ");
    is_up("good");
    let hosts = json!([held_at.ip().to_string(), "push.example"]);
    assert_eq!(get_data(http, "nodes/weighted")["nodes"], hosts);
    let pushing = thread::spawn(move || post(http, "all?operation=5", b"to both"));
    assert_eq!(client.recv().body, b"to both");
    calls.recv().unwrap();

    // A mistake changes nothing.
    let unknown = "SIGHUP: nothing changes: ";
    reload(text(&[&good_comet], "[\"held=h.example\"]"), unknown);
    assert!(Metrics::read(stat).by_label("comet_logic_comet_up").len() == 2);

    // One is taken out while a push waits for it: that ends as any other, and the next does not concern it.
    let out = format!("comet \"held\" at {held_at} is taken out of the list");
    reload(text(&[&good_comet], "[\"good=push.example\"]"), &out);
    assert_eq!(post(http, "all?operation=5", b"to one"), ledger(1, 0));
    assert_eq!(client.recv().body, b"to one");
    answers.add_permits(1);
    assert_eq!(pushing.join().unwrap(), ledger(8, 0));
    assert!(calls.try_recv().is_err(), "it was asked once");

    // The connection to one that is taken out closes.
    let callers = "comet_api_connections{listener=\"push.grpc\"}";
    assert_eq!(Metrics::read(good.stat).value(callers), 1);
    reload(text(&[], "[]"), &format!("comet \"good\" at {} is taken out", good.grpc));
    until("its connection to close", || Metrics::read(good.stat).value(callers) == 0);
    let refused = request(http, "POST", "/goim/push/all?operation=5", b"hi");
    assert_eq!(refused["code"], -500, "{refused}");
}
