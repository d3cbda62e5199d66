//! Members of rooms are informed when others enter and leave.

use comet_client::Transport;
use serde_json::{Value, json};

use crate::support::{BOTH, Server};

#[test]
fn members_are_informed_when_others_enter_and_leave() {
    let rule = r#"presence.rules=[{rooms="chat://", operation=900, window="100ms"}]"#;
    for transport in BOTH {
        let server = Server::start(&[rule]);
        let token = |key: &str| json!({ "mid": 7, "key": key, "room_id": "chat://1" }).to_string();
        let mut client = server.client(transport, &token("a"));
        let mut told = || {
            let message = client.receive().unwrap().expect("a message");
            assert_eq!(message.operation, 900);
            serde_json::from_slice::<Value>(&message.body).unwrap()
        };
        let first = told();
        assert_eq!((&first["room"], &first["joined"]), (&json!("chat://1"), &json!(1)));
        assert_eq!(first["who_joined"], json!([{ "mid": 7, "key": "a" }]));
        let other = server.client(Transport::Tcp, &token("b"));
        assert_eq!(told()["who_joined"], json!([{ "mid": 7, "key": "b" }]));
        drop(other);
        let last = told();
        assert_eq!((&last["left"], &last["joined"]), (&json!(1), &json!(0)));
        assert_eq!(last["who_left"], json!([{ "mid": 7, "key": "b" }]));
        assert_eq!(server.metric("comet_presence_pushes_total"), 3);
        assert_eq!(server.metric("comet_presence_changes_total"), 3);
    }
}
