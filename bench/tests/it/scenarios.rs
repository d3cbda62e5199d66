//! Each scenario once and small, against a comet. The tests check counts and never times.

use serde_json::{Value, json};

use crate::support::{check_series, count, last, measured};

#[test]
fn connections_storm_and_stay() {
    let check = |name, flags| {
        let results = measured(name, &format!("connect -n 40 --hold 0.1 --rounds 1 {flags}"));
        let storms = results["storms"].as_array().expect("storms");
        assert_eq!(storms[0]["subject"], "comet");
        assert_eq!(storms[0]["handshake"]["count"], 40);
        for storm in storms {
            check_series(name, storm, &["connections"], &["connections", "cpu", "memory"]);
            assert_eq!(last(storm, "connections"), 40, "{storm}");
        }
    };
    check("connect", "--ws-share 0.5");
    check("connect-shared", "--processes 2");
}

#[test]
fn rooms_are_pushed_to_from_several_processes() {
    // Messages longer than a TLS record.
    let results = measured(
        "fanout",
        "fanout -n 40 --rooms 4 --rate 20 --seconds 0.5 --rounds 1 --processes 2 --ws-share 0.5 --tls --size 40000",
    );
    let turn = &results["turns"][0];
    assert_eq!(turn["subject"], "comet");
    assert_eq!(turn["deliveries"]["received"], 400, "{turn}");
    assert_eq!(turn["latency"]["count"], 400, "{turn}");
}

#[test]
fn callers_overlap_and_keep_their_order() {
    let check = |name, flags| {
        let shared = "latency -n 20 --keys-per-call 10 --seconds 1 --rounds 1";
        let results = measured(name, &format!("{shared} {flags}"));
        let turn = &results["turns"][0];
        let received = count(&turn["deliveries"]["received"]);
        assert_eq!(received, 10 * count(&turn["sent"]["pushes"]), "{turn}");
        assert!(received > 0, "{turn}");
    };
    check("callers", "--callers 4 --rate 0 --window 8");
    check("callers-shared", "--callers 3 --rate 200 --processes 2");
}

#[test]
fn idle_connections_are_answered() {
    let results = measured("idle", "idle -n 30 --heartbeat 0.5 --seconds 1 --rounds 1");
    let turn = &results["turns"][0];
    assert!(count(&turn["heartbeats"]) > 0, "{turn}");
    assert_eq!(turn["round_trip"]["count"], turn["heartbeats"], "{turn}");
    assert!(turn["idle_cpu_share"].as_f64().expect("a figure") > 0.0, "{turn}");
    check_series("idle", turn, &["heartbeats"], &["heartbeats", "cpu", "memory"]);
    // The last heartbeats may be answered after the last one was sent.
    let answered = last(turn, "heartbeats");
    assert!(answered > 0 && answered <= count(&turn["heartbeats"]), "{turn}");
}

#[test]
fn members_notice_nothing_of_guests() {
    let check = |name, processes| {
        let shared = "churn -n 20 --rooms 4 --arrivals 100 --life 0.2 --rate 20 --seconds 1 \
                      --rounds 1 --ws-share 0.5 --processes";
        let results = measured(name, &format!("{shared} {processes}"));
        let turn = &results["turns"][0];
        assert_eq!(turn["deliveries"]["expected"], 400, "{turn}");
        assert_eq!(turn["deliveries"]["received"], 400, "{turn}");
        let guests = &turn["guests"];
        assert!(count(&guests["arrived"]) > 20, "{turn}");
        assert!(count(&guests["moved"]) > 0, "{turn}");
        assert_eq!(guests["turned_away"], 0, "{turn}");
        assert!(count(&turn["visits"]["received"]) > 0, "{turn}");
        let (handshakes, gave_up) = (&turn["handshake"]["count"], &guests["gave_up"]);
        assert!(count(handshakes) + count(gave_up) >= count(&guests["arrived"]), "{turn}");
        let plots = ["throughput", "connections", "cpu", "memory"];
        check_series(name, turn, &["received", "connections"], &plots);
        assert_eq!(last(turn, "received"), 400 + count(&turn["visits"]["received"]), "{turn}");
        assert_eq!(last(turn, "connections"), 20, "the guests are gone: {turn}");
    };
    check("churn", "1");
    check("churn-shared", "2");
}

/// Measures 20 connections under a policy, with outboxes of `outbox` pushes. Five do not read, and five read slowly.
fn readers(name: &str, policy: &str, outbox: u64) -> Value {
    // More pushes than the outbox and the kernel take for a slow reader, at 100 a second.
    let pushes = outbox + 100;
    let seconds = pushes as f64 / 100.0;
    // The time limit is long, so that the policy acts first even on a busy machine.
    let shared = "readers -n 20 --slow 0.25 --stalled 0.25 --slow-rate 10000 --size 4000 --rate 100 \
                  --rounds 1 --server-set tcp.sndbuf=4096 \
                  --server-set protocol.write_timeout=\"60s\"";
    let differs = format!(
        "--seconds {seconds} --server-set protocol.svr_proto={outbox} \
         --server-set protocol.slow_consumer=\"{policy}\""
    );
    let results = measured(name, &format!("{shared} {differs}"));
    let turn = results["turns"][0].clone();
    assert_eq!(turn["healthy_expected"], 10 * pushes, "{turn}");
    let healthy = count(&turn["healthy_latency"]["count"]) + count(&turn["healthy_lost"]);
    assert_eq!(healthy, 10 * pushes, "{turn}");
    assert!(count(&turn["fate"]["missing"]) > 0, "{turn}");
    let closed = turn["closed"].as_object().is_some_and(|closed| !closed.is_empty());
    let moving: &[&str] = if closed { &["received", "connections"] } else { &["received"] };
    check_series(name, &turn, moving, &["throughput", "cpu", "memory"]);
    assert_eq!(last(&turn, "received"), count(&turn["deliveries"]["received"]), "{turn}");
    turn
}

#[test]
fn the_server_counts_the_messages_that_slow_readers_miss() {
    let newest = readers("readers-newest", "drop-newest", 80);
    assert_eq!(newest["fate"]["dropped"]["outbox_full"], newest["fate"]["missing"], "{newest}");
    let oldest = readers("readers-oldest", "drop-oldest", 80);
    assert_eq!(oldest["fate"]["superseded"], oldest["fate"]["missing"], "{oldest}");
    assert_eq!(oldest["fate"]["open_missing"], oldest["fate"]["missing"], "{oldest}");
}

#[test]
fn closed_slow_readers_are_distinguished_from_lost_deliveries() {
    // The outbox is large enough that clients that stall for some seconds are not closed.
    let turn = readers("readers-close", "close", 500);
    assert!(count(&turn["closed_by_server"]["slow_consumer"]) > 0, "{turn}");
    assert!(count(&turn["fate"]["closed_before"]) > 0, "{turn}");
    assert!(count(&turn["fate"]["open_missing"]) < count(&turn["fate"]["missing"]), "{turn}");
}

#[test]
fn a_day_has_figures_and_times_of_each_phase() {
    let day = "day -n 40 --rooms 5 --heartbeat 0.5 --life 0.2 --processes 2 \
               --phase {name='storm',connect=0.5,seconds=0.1} \
               --phase {name='rush',seconds=1,room-rate=20,key-rate=40,broadcast-rate=5,arrivals=50} \
               --phase {name='again',seconds=1,reconnect=0.5,broadcast-rate=10} \
               --phase {name='after',seconds=0.2,room-rate=20,broadcast-rate=10}";
    let results = measured("day", day);
    let [storm, rush, again, after] = results["phases"].as_array().expect("phases").as_slice()
    else {
        panic!("{results}");
    };
    assert_eq!(storm["connections"], 20, "{storm}");
    assert_eq!(storm["handshake"]["count"], 20, "{storm}");
    assert_eq!(rush["connections"], 40, "{rush}");
    assert_eq!(rush["pushes"], 65, "{rush}");
    assert_eq!(rush["deliveries"]["lost"], 0, "{rush}");
    // One push to all keys, five broadcasts, and pushes to rooms.
    assert!(count(&rush["deliveries"]["received"]) > 240, "{rush}");
    assert!(count(&rush["guests"]["arrived"]) > 0, "{rush}");
    assert!(count(&rush["heartbeats"]) > 0, "{rush}");
    assert_eq!(again["connections"], 40, "{again}");
    assert_eq!(again["handshake"]["count"], 20, "{again}");
    assert_eq!(after["deliveries"]["lost"], 0, "{after}");
    let day = &results["days"][0];
    let plots = ["throughput", "heartbeats", "connections", "cpu", "memory"];
    check_series("day", day, &["received", "heartbeats", "connections"], &plots);
    let spans = day["phases"].as_array().expect("phases");
    let names: Vec<_> = spans.iter().map(|span| span["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["storm", "rush", "again", "after"]);
    let times = spans.iter().flat_map(|span| [&span["start_s"], &span["end_s"]]);
    let times: Vec<f64> = times.map(|time| time.as_f64().expect("seconds")).collect();
    assert!(times.is_sorted() && times[0] >= 0.0 && times[3] - times[2] >= 1.0, "{times:?}");
    let received = [storm, rush, again, after].map(|phase| count(&phase["deliveries"]["received"]));
    assert_eq!(last(day, "received"), received.iter().sum::<u64>(), "{day}");
    assert_eq!(last(day, "connections"), 40, "{day}");
}

#[test]
fn clients_notice_a_pause_and_nothing_else_of_upgrades() {
    let check = |name, flags| {
        let shared = "upgrade -n 40 --rooms 4 --tls-share 0.5 --rest 2 --upgrades 2";
        let results = measured(name, &format!("{shared} {flags}"));
        let turns = results["turns"].as_array().expect("turns");
        let subjects: Vec<_> = turns.iter().map(|turn| &turn["subject"]).collect();
        assert_eq!(subjects, ["quiet", "upgrade", "upgrade"]);
        for turn in turns {
            assert_eq!(turn["connections"], 40, "{turn}");
            assert_eq!(turn["pause"]["count"], 40, "{turn}");
            assert_eq!(turn["disconnected"], 0, "{turn}");
            assert!(count(&turn["deliveries"]["received"]) > 0, "{turn}");
        }
        for turn in &turns[1..] {
            let upgrade = &turn["upgrade"];
            assert_eq!((&upgrade["went_on"], &upgrade["closed"]), (&json!(40), &json!(0)));
            assert!(upgrade["pause_us"].as_f64().expect("a figure") > 0.0, "{turn}");
            assert!(count(&turn["memory_after"]["rss_bytes"]) > 0, "{turn}");
        }
        assert_ne!(turns[1]["upgrade"]["pid"], turns[2]["upgrade"]["pid"]);
        let whole = &results["whole"]["deliveries"];
        assert_eq!(whole["received"], whole["expected"], "{whole}");
        // Each message of a client arrives once, and the server has the counts of all processes.
        let whole = &results["whole"];
        let said = count(&whole["said"]["received"]);
        assert!(said > 100, "{whole}");
        assert_eq!(count(&whole["talk"]["sent"]), said);
        assert_eq!(count(&whole["talk"]["answered"]), said);
        assert_eq!(count(&whole["server"]["received"]), said);
        let joins = &whole["joins"];
        assert!(count(&joins["left"]) <= count(&joins["joined"]), "{joins}");
        assert_eq!(count(&joins["joined"]) + count(&joins["left"]), count(&joins["asked"]));
        // The last process ends with the bench.
        let last = count(&turns[2]["upgrade"]["pid"]);
        let stat = std::fs::read_to_string(format!("/proc/{last}/stat"));
        assert!(stat.map_or(true, |stat| stat.contains(") Z ")), "process {last}");
    };
    check("upgrade", "--talk 200 --visits 20");
    check("upgrade-shared", "--processes 2 --ws-share 1 --key-rate 0 --talk 200");
}

#[test]
fn the_server_counts_filtered_messages() {
    // An operation that the connections' tokens do not accept: keys get nothing of it.
    let day = "day -n 5 --operation 77 --phase {name='x',seconds=0.2,key-rate=50}";
    let phase = measured("lost", day)["phases"][0].clone();
    assert_eq!(phase["dropped"]["filtered"], 10, "{phase}");
    assert_eq!(phase["deliveries"]["lost"], 10, "{phase}");
}

#[test]
fn a_soak_ends_at_rest_after_each_fault() {
    let results = measured("soak", "soak -n 40 --rooms 4 --minutes 0.1 --seed 1");
    let curve = results["curve"].as_array().expect("phases");
    assert!(!curve.is_empty(), "{results}");
    for phase in curve {
        let descriptors = |rest: &Value| count(&rest["descriptors"]);
        assert!(descriptors(&phase["rest"]) <= descriptors(&results["base"]), "{phase}");
        assert!(count(&phase["pushes"]) > 0 && count(&phase["rest"]["heap_bytes"]) > 0, "{phase}");
    }
}

#[test]
fn clients_keep_their_connections_and_messages_under_attack() {
    let attacks =
        "half-open,trickled-upgrades,stalled-close,room-changes,tls-handshakes,abandoned-hellos";
    let flags = "--half-open 20 --stalled 20 --seconds 0.3 --rounds 1";
    let results = measured("overload", &format!("overload -n 20 --only {attacks} {flags}"));
    let found = results["attacks"].as_array().expect("attacks");
    assert_eq!(found.len(), 6, "{results}");
    for attack in found {
        assert!(count(&attack["done"]) > 0, "{attack}");
        for measured in [&attack["quiet"][0], &attack["attacked"][0]] {
            assert_eq!(measured["latency"]["count"], 150, "{attack}");
            assert!(count(&measured["round_trip"]["count"]) > 0, "{attack}");
        }
    }
}

#[test]
fn clients_that_were_cut_off_get_their_parked_pushes() {
    let check = |name, flags, dropped: u64| {
        let results = measured(name, &format!("resume -n 40 --pushes 3 --rounds 1 {flags}"));
        let [plain, kept] = results["turns"].as_array().expect("turns").as_slice() else {
            panic!("two turns")
        };
        assert_eq!((&plain["absent"], &plain["deliveries"]["received"]), (&json!(120), &json!(0)));
        assert_eq!(kept["parked"], 120 - dropped, "{kept}");
        assert_eq!(kept["resumed"], 120 - dropped, "{kept}");
        assert_eq!(kept["deliveries"]["received"], 120 - dropped, "{kept}");
        assert_eq!(kept["deliveries"]["lost"], dropped, "{kept}");
    };
    check("resume", "--ws-share 0.5", 0);
    check("resume-bounded", "--messages 2 --processes 2", 40);
    check("resume-logic", "--logic", 0);
}

#[test]
fn clients_that_were_cut_off_recover_the_history_of_their_rooms() {
    let flags = "resume -n 40 --rooms 4 --pushes 100 --rounds 1 --ws-share 0.5";
    let results = measured("resume-rooms", flags);
    let [plain, kept] = results["turns"].as_array().expect("turns").as_slice() else {
        panic!("two turns")
    };
    assert_eq!(
        (&plain["deliveries"]["lost"], &kept["deliveries"]["lost"]),
        (&json!(4_000), &json!(0))
    );
    assert_eq!(kept["deliveries"]["received"], 4_000, "{kept}");
}

#[test]
fn clients_recover_pushes_that_full_outboxes_dropped() {
    let results = measured("resume-drop", "resume -n 20 --rooms 2 --drop 0.1 --rounds 1");
    let turn = &results["turns"][0];
    assert_eq!(turn["deliveries"]["received"], turn["deliveries"]["expected"], "{turn}");
    assert!(count(&turn["repaired"]) * 10 >= count(&turn["deliveries"]["expected"]), "{turn}");
}
