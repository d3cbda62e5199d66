//! The corpus of fuzz targets as ordinary tests.

#[path = "../../../fuzz/checks/config.rs"]
mod config;
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[test]
fn corpus_of_config() {
    replay::replay("config", config::check);
}
