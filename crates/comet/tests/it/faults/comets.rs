//! One comet of several behind a wire that is spoilt: pushes to the others go on.

use comet_client::Transport;

use super::Logic;
use super::wire::{Passage, Wire};
use crate::logic_rig::post;
use crate::process::Server;
use crate::support::{Metrics, until};

#[test]
fn a_comet_behind_a_bad_wire_holds_up_no_push_to_the_others() {
    let good = Server::start(&["server.id=\"good\""]);
    let other = Server::start(&["server.id=\"other\""]);
    let wire = Wire::to(other.grpc);
    let logic = Logic::start(&[
        format!("logic_server.comets=[\"good={}\",\"other={}\"]", good.grpc, wire.address),
        "push.timeout=\"500ms\"".to_owned(),
    ]);
    let is_up = |up: u64| {
        until("the other's health to be known", || {
            let sample = "comet_logic_comet_up{server=\"other\"}";
            Metrics::read(logic.stat).value(sample) == up
        });
    };
    let [mut here, mut there] = [&good, &other].map(|comet| comet.live(Transport::Tcp, "41"));
    is_up(1);
    for passage in [Passage::Cut, Passage::Slow, Passage::Garbage] {
        wire.set(passage);
        is_up(0);
        for number in 0..20_u8 {
            let data = post(logic.http, "all?operation=1000", &[number]);
            assert_eq!(data["queued"], 1, "{passage:?}: {data}");
            assert_eq!(data["failed"][0]["server"], "other", "{passage:?}: {data}");
            assert_eq!(here.recv().body, [number], "{passage:?}");
        }
        wire.set(Passage::Open);
        is_up(1);
        until("both to be reached", || {
            let data = post(logic.http, "all?operation=1000", b"both");
            assert_eq!(here.recv().body, b"both", "{passage:?}");
            data["queued"] == 2
        });
        // What a slow wire has kept may come before.
        while there.recv().body != b"both" {}
    }
}
