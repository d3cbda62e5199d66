//! The corpus of fuzz targets as ordinary tests.

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/checks/world.rs"]
mod world;

#[test]
fn corpus_of_world() {
    replay::replay("world", world::check);
}
