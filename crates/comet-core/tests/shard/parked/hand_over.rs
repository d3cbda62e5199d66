//! Parked sessions in a hand-over to another process.

use std::path::PathBuf;

use comet_core::distribute;
use comet_handover::Shard;

use super::{PUSH, TOKEN, check_books, join, limits, parked, pushes, resumed, with};
use crate::rig::Rig;

#[test]
fn parked_sessions_go_on_in_another_process() {
    for count in [1, 2, 3, 5] {
        let mut rig = with(|_| {});
        let (gone, ..) = join(&mut rig, 0, TOKEN);
        rig.hang_up(gone);
        rig.push_keys(&["k"], PUSH, b"1");
        let (stays, ..) = join(&mut rig, 1, "8/other//1000");
        rig.allow(stays, Some(0));
        rig.push_keys(&["other"], PUSH, b"2");
        // A process that does not know the feature is refused before any core is frozen.
        assert_eq!(rig.shards[1].required_by_connections(), ["parked"]);
        let stays = rig.upgrade(count)[&stays];
        assert_eq!(rig.push_user(7, PUSH, b"3"), parked(1), "{count}");
        let (_, kept, rest) = join(&mut rig, 0, TOKEN);
        assert_eq!((kept, rest), (resumed(2), pushes(&["1", "3"])), "{count}");
        rig.hang_up(stays);
        assert_eq!(rig.push_user(8, PUSH, b"4"), parked(1), "{count}");
        let (_, kept, rest) = join(&mut rig, count - 1, "8/other//1000");
        assert_eq!((kept, rest), (resumed(2), pushes(&["2", "4"])), "{count}");
        rig.pass(10);
        check_books(&rig);
    }
}

fn path(shard: usize) -> PathBuf {
    let name = format!("../comet-handover/fixtures/parked-shard-{shard}.bin");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// `UPDATE_FIXTURES=1` writes the hand-over of this release.
#[test]
fn parked_sessions_of_the_first_release_that_had_them_are_taken_over() {
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        let mut rig = with(|_| {});
        let (gone, ..) = join(&mut rig, 0, TOKEN);
        rig.hang_up(gone);
        rig.push_keys(&["k"], PUSH, b"1");
        join(&mut rig, 1, "8/other//1000");
        for (shard, (bytes, _)) in rig.hand_over().iter().enumerate() {
            std::fs::write(path(shard), bytes).unwrap();
        }
    }
    for count in [1, 2, 3] {
        let shards = [0, 1].map(|shard| {
            let handed = Shard::decode(&std::fs::read(path(shard)).unwrap()).unwrap();
            assert!(shard == 0 || handed.required.iter().any(|name| name == "parked"));
            let sockets = vec![(); handed.connections.len()];
            (handed, sockets)
        });
        let mut rig = Rig::new(count, limits());
        rig.take_over(distribute(shards.into(), count).unwrap());
        let (_, kept, rest) = join(&mut rig, count - 1, TOKEN);
        assert_eq!((kept, rest), (resumed(1), pushes(&["1"])));
        let (_, kept, _) = join(&mut rig, 0, "8/other//1000");
        assert_eq!(kept, resumed(0), "its session is kept");
        check_books(&rig);
    }
}
