//! The call that reads what a room keeps.

use comet_wire::comet::v1::inspect_client::InspectClient;
use comet_wire::comet::v1::{HistoryReply, HistoryReq};
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::support::{Server, To, http};

const RULES: &str = "history.rules=[{rooms=\"h://\", pushes=5}]";

fn read(server: &Server, request: HistoryReq) -> Result<HistoryReply, Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc())).unwrap();
        let mut client = InspectClient::new(endpoint.connect().await.unwrap());
        client.history(request).await.map(tonic::Response::into_inner)
    })
}

fn page(server: &Server, path: &str) -> (u16, Value) {
    let (status, body) = http(server.stat(), "GET", path, b"");
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[test]
fn callers_read_what_a_room_keeps() {
    let server = Server::start(&[RULES]);
    let asked = |room: &str, before, limit| HistoryReq { room: room.to_owned(), before, limit };
    assert_eq!(read(&server, asked("h://1", 0, 0)).unwrap(), HistoryReply::default());
    // No client is in the room.
    for number in 1..=7 {
        let body = if number == 6 { vec![0xff] } else { format!("m{number}").into_bytes() };
        server.push(To::Room("h://1"), 5, &body);
    }
    let first = read(&server, asked("h://1", 0, 2)).unwrap();
    let offsets = |reply: &HistoryReply| {
        reply.entries.iter().map(|entry| (entry.offset, entry.operation)).collect::<Vec<_>>()
    };
    assert_eq!((first.offset, offsets(&first), first.next), (7, vec![(7, 5), (6, 5)], 6));
    assert_eq!((&*first.entries[0].body, &*first.entries[1].body), (&b"m7"[..], &[0xff][..]));
    let last = read(&server, asked("h://1", first.next, 0)).unwrap();
    assert_eq!((last.epoch, offsets(&last)), (first.epoch, vec![(5, 5), (4, 5), (3, 5)]));
    assert_eq!((last.next, last.epoch.is_some()), (0, true));

    let (status, body) = page(&server, "/history?room=h://1&before=7&limit=2");
    let epoch = format!("{:016x}", first.epoch.unwrap());
    assert_eq!((status, &body["epoch"], &body["next"]), (200, &json!(epoch), &json!(5)));
    let mut entries = body["entries"].clone();
    for entry in entries.as_array_mut().unwrap() {
        assert!(entry["age_ms"].take().is_u64());
    }
    let expected = json!([
        { "offset": 6, "operation": 5, "age_ms": null, "body_base64": "/w==" },
        { "offset": 5, "operation": 5, "age_ms": null, "body": "m5" },
    ]);
    assert_eq!(entries, expected);
    let empty = json!({ "epoch": null, "offset": 0, "next": null, "entries": [] });
    assert_eq!(page(&server, "/history?room=h://2"), (200, empty));

    let refused = read(&server, asked("live://1", 0, 0)).unwrap_err();
    let sentence = "room \"live://1\" keeps no history: no [[history]] rule covers it";
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, sentence));
    assert_eq!(page(&server, "/history?room=live://1").0, 409);
    for wrong in [asked("", 0, 0), asked("h://1", 0, 1_001)] {
        assert_eq!(read(&server, wrong).unwrap_err().code(), Code::InvalidArgument);
    }
    for path in ["/history", "/history?room=h://1&limit=0", "/history?room=h://1&before=x"] {
        assert_eq!(page(&server, path).0, 400, "{path}");
    }
}
