//! The corpus of fuzz targets as ordinary tests.

#[path = "../../fuzz/checks/query.rs"]
mod query;
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn corpus_of_query() {
    replay::replay("query", query::check);
}
