//! The corpus of `crates/fuzz`, replayed.

#[path = "../../../fuzz/checks/record.rs"]
mod record;
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[test]
fn corpus_of_record() {
    replay::replay("record", record::check);
}
