//! The corpus of fuzz targets as ordinary tests.

#[path = "../../../fuzz/checks/frame.rs"]
mod frame;
#[path = "../../../fuzz/checks/proxy.rs"]
mod proxy;
#[path = "../../../fuzz/checks/push_frame.rs"]
mod push_frame;
#[path = "../../../fuzz/replay.rs"]
mod replay;
#[path = "../../../fuzz/checks/text.rs"]
mod text;
#[path = "../../../fuzz/checks/upgrade.rs"]
mod upgrade;
#[path = "../../../fuzz/checks/websocket.rs"]
mod websocket;

#[test]
fn corpus_of_frame() {
    replay::replay("frame", frame::check);
}

#[test]
fn corpus_of_websocket() {
    replay::replay("websocket", websocket::check);
}

#[test]
fn corpus_of_text() {
    replay::replay("text", text::check);
}

#[test]
fn corpus_of_upgrade() {
    replay::replay("upgrade", upgrade::check);
}

#[test]
fn corpus_of_proxy() {
    replay::replay("proxy", proxy::check);
}

#[test]
fn corpus_of_push_frame() {
    replay::replay("push_frame", push_frame::check);
}
