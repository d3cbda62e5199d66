//! Hand-overs of former releases, which every later one must read.
//!
//! A release that changes the format adds files of its own, which `UPDATE_FIXTURES=1` writes. It does not change the files of
//! former releases.

use std::path::PathBuf;

use comet_core::distribute;
use comet_handover::Shard;

use super::story::Clients;

/// Names of the files, without the number of the shard.
const RELEASES: [&str; 2] = ["version-1", "version-1-tls"];

fn path(release: &str, shard: usize) -> PathBuf {
    let name = format!("../comet-handover/fixtures/{release}-shard-{shard}.bin");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn hand_overs_of_former_releases_are_taken_over() {
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        let release = RELEASES.last().unwrap();
        let mut rig = Clients::amid_everything().rig;
        rig.sealed = Some(60);
        for (shard, (bytes, _)) in rig.hand_over().iter().enumerate() {
            std::fs::write(path(release, shard), bytes).unwrap();
        }
    }
    for release in RELEASES {
        for count in [2, 1, 3] {
            let parts = [0, 1].map(|shard| {
                let handed = Shard::decode(&std::fs::read(path(release, shard)).unwrap()).unwrap();
                let sockets: Vec<String> =
                    handed.connections.iter().map(|conn| conn.key.clone()).collect();
                (handed, sockets)
            });
            let parts = distribute(parts.into(), count).unwrap();
            // The story that the former release began ends as if this release had begun it.
            let told = Clients::from_parts(parts).end();
            let whole = super::Story::tell(None);
            for (name, bytes) in &told.outputs {
                assert!(whole.outputs[name].ends_with(bytes), "{name} of {release}");
            }
            assert_eq!(told.totals, whole.totals, "{release}");
        }
    }
}
