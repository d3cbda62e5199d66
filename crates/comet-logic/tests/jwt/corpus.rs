//! The corpus of fuzz targets as ordinary tests.

#[path = "../../../fuzz/replay.rs"]
mod replay;
#[path = "../../../fuzz/checks/token.rs"]
mod token;

#[test]
fn corpus_of_token() {
    replay::replay("token", token::check);
}
