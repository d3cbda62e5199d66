//! The corpus of fuzz targets as ordinary tests.

#[path = "../../../fuzz/replay.rs"]
mod replay;
#[path = "../../../fuzz/checks/shard.rs"]
mod shard;

#[test]
fn corpus_of_shard() {
    replay::replay("shard", shard::check);
}
