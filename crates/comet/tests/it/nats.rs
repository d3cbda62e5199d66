//! Several hosts that push for each other through a real NATS server.

use std::thread;
use std::time::Duration;

use comet_client::{Client, Transport};

use crate::nats_server::NatsServer;
use crate::support::{Server, To, queued, received, try_push, until};

/// Two hosts, a and b, that have discovered each other.
pub(crate) fn two_hosts(nats: &NatsServer) -> [Server; 2] {
    two_hosts_with(nats, &["push.timeout=\"5s\""])
}

/// The same, with settings for both.
pub(crate) fn two_hosts_with(nats: &NatsServer, settings: &[&str]) -> [Server; 2] {
    let servers = format!("nats.servers=[\"nats://{}\"]", nats.address());
    let a = Server::start(&[&[&*servers, "server.id=\"a\""], settings].concat());
    let b = Server::start_another(&[&[&*servers, "server.id=\"b\""], settings].concat());
    for host in [&a, &b] {
        host.until("comet_cluster_hosts", 1);
        until_all_hosts_are_known(host);
    }
    [a, b]
}

/// In the first second of a connection to NATS a ledger names `*`, as other hosts may not have announced themselves yet.
fn until_all_hosts_are_known(host: &Server) {
    let is_over = || host.push(To::All, 6, b"").unanswered.is_empty();
    until("the time in which hosts announce themselves to end", is_over);
}

fn client(host: &Server, user: i64, room: &str) -> Client {
    let token =
        format!("{{\"mid\":{user},\"key\":\"key-{user}\",\"room_id\":{room:?},\"accepts\":[5]}}");
    host.client(Transport::Tcp, &token)
}

/// Waits until the other hosts know the members of a room. Before, a push to it reaches only some of them.
fn until_known(host: &Server, room: &str, members: u64) {
    let push = || try_push(host.caller(), To::Room(room), 6, b"");
    until("the room to be known", || push().is_ok_and(|ledger| ledger == queued(members)));
}

/// The next body that the client gets, except those of [`until_known`].
fn next(client: &mut Client) -> Vec<u8> {
    loop {
        let body = received(client);
        if !body.is_empty() {
            return body;
        }
    }
}

#[test]
fn a_push_to_any_host_reaches_the_clients_of_all() {
    let Some(nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts(&nats);
    let mut here = client(&a, 1, "live://x.y z");
    let mut there = [client(&b, 2, "live://x.y z"), client(&b, 3, "live://x.y z")];
    until_known(&a, "live://x.y z", 3);
    until_known(&b, "live://x.y z", 3);
    for (host, body) in [(&a, "from a"), (&b, "from b")] {
        let ledger = host.push(To::Room("live://x.y z"), 5, body.as_bytes());
        assert_eq!(ledger, queued(3), "{body}");
        for client in there.iter_mut().chain([&mut here]) {
            assert_eq!(next(client), body.as_bytes());
        }
    }
    // By user and by keys: on the other host, on this host, and without a connection.
    assert_eq!(a.push(To::User(3), 5, b"user"), queued(1));
    assert_eq!(next(&mut there[1]), b"user");
    let mut ledger = a.push(To::Keys(&["key-1", "key-2", "nobody"]), 5, b"keys");
    assert_eq!(std::mem::take(&mut ledger.absent), 1);
    assert_eq!(ledger, queued(2));
    assert_eq!(next(&mut there[0]), b"keys");
    assert_eq!(next(&mut here), b"keys");
    assert_eq!(b.push(To::All, 5, b"all"), queued(3));
    for client in there.iter_mut().chain([&mut here]) {
        assert_eq!(next(client), b"all");
    }
    // A push to a room without members is not sent to the other host.
    let received = b.metric("comet_cluster_received_total");
    assert_eq!(a.push(To::Room("nobody"), 5, b"x"), queued(0));
    assert_eq!(b.metric("comet_cluster_received_total"), received);
}

#[test]
fn any_nats_client_can_push() {
    let Some(nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts(&nats);
    let mut clients = [client(&a, 1, "r"), client(&b, 2, "r")];
    until_known(&a, "r", 2);
    let mut program = nats.program();
    program.publish("comet.room.r", &[("Comet-Operation", "9000")], "to the room");
    for client in &mut clients {
        assert_eq!(next(client), b"to the room");
    }
    program.publish("comet.user.2", &[], "to the user");
    assert_eq!(next(&mut clients[1]), b"to the user");
    program.publish("comet.all", &[("Comet-Operation", "many")], "is none");
    a.until("comet_cluster_invalid_total", 1);
    program.publish("comet.key.key-1", &[], "to the key");
    assert_eq!(next(&mut clients[0]), b"to the key");
    let answer = program.request("comet.user.1", "and an answer");
    assert!(answer.contains("\"matched\":"), "{answer}");
    assert_eq!(next(&mut clients[0]), b"and an answer");
}

#[test]
fn without_nats_a_host_reaches_its_own_clients_and_names_the_others() {
    let Some(mut nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts(&nats);
    let mut clients = [client(&a, 1, "r"), client(&b, 2, "r")];
    until_known(&a, "r", 2);
    nats.stop();
    a.until("comet_cluster_connected", 0);
    let mut ledger = a.push(To::Room("r"), 5, b"alone");
    assert_eq!(std::mem::take(&mut ledger.unanswered), ["b"]);
    assert_eq!(ledger, queued(1));
    assert_eq!(next(&mut clients[0]), b"alone");
    let mut late = client(&b, 3, "s");
    nats.restart();
    until_known(&a, "r", 2);
    until_known(&a, "s", 1);
    assert_eq!(a.push(To::Room("s"), 5, b"again"), queued(1));
    assert_eq!(next(&mut late), b"again");
    assert_eq!(a.push(To::Room("r"), 5, b"again"), queued(2));
    for client in &mut clients {
        assert_eq!(next(client), b"again");
    }
}

/// Host a has no members of the room, so it cannot tell which hosts have to answer.
#[test]
fn a_push_without_an_answer_names_every_host_that_may_have_members() {
    let Some(nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts_with(&nats, &["push.timeout=\"8s\""]);
    let mut there = client(&b, 2, "r");
    until_known(&a, "r", 1);
    nats.pause(true);
    let ledger = a.push(To::Room("r"), 5, b"late");
    nats.pause(false);
    assert_eq!((ledger.matched, ledger.unanswered), (0, vec!["b".to_owned()]));
    assert_eq!(next(&mut there), b"late");
}

#[test]
fn pushes_do_not_wait_for_a_host_that_has_ended() {
    let Some(nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts(&nats);
    let _client = client(&a, 1, "r");
    drop(b);
    a.until("comet_cluster_hosts", 0);
    // In the first second of a connection to NATS other hosts may not have announced themselves yet.
    until("the time in which hosts announce themselves to end", || {
        let ledger = a.push(To::All, 5, b"all");
        assert_eq!(ledger.matched, 1);
        ledger.unanswered.is_empty()
    });
    assert_eq!(a.push(To::All, 5, b"all"), queued(1));
    assert_eq!(a.push(To::Room("r"), 5, b"room"), queued(1));
}

#[test]
fn a_host_starts_without_nats_and_connects_later() {
    let Some(mut nats) = NatsServer::start(&["--user", "u", "--pass", "secret"]) else { return };
    nats.stop();
    let servers = format!("nats.servers=[\"nats://{}\"]", nats.address());
    let sets = [&*servers, "nats.user=\"u\"", "nats.password=\"secret\"", "server.id=\"a\""];
    let a = Server::start(&sets);
    let mut client = client(&a, 1, "r");
    let mut ledger = a.push(To::Room("r"), 5, b"alone");
    assert_eq!(std::mem::take(&mut ledger.unanswered), ["*"], "other hosts are not known");
    assert_eq!(ledger, queued(1));
    assert_eq!(next(&mut client), b"alone");
    nats.restart();
    a.until("comet_cluster_connected", 1);
}

/// Waits until the older of two connections with key-1 is closed, and the younger one has the key.
fn until_replaced(older: &Server, younger: &Server, replaced: u64) {
    older.until("comet_closed_total{reason=\"replaced\"}", replaced);
    older.until("comet_keys", 0);
    assert_eq!(younger.metric("comet_keys"), 1);
    let mut ledger = older.push(To::Keys(&["key-1"]), 5, b"one");
    assert_eq!(std::mem::take(&mut ledger.absent), 0);
    assert_eq!(ledger, queued(1));
}

#[test]
fn a_key_that_connects_to_another_host_closes_the_older_connection() {
    let Some(nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts(&nats);
    let _on_a = client(&a, 1, "r");
    // Possibly more than 1: a host that was lost for a while gets the keys again.
    a.until_some("comet_cluster_keys_told_total");
    let mut on_b = client(&b, 1, "r");
    until_replaced(&a, &b, 1);
    assert_eq!(next(&mut on_b), b"one");
    // The same in the other direction.
    let mut on_a = client(&a, 1, "r");
    until_replaced(&b, &a, 1);
    assert_eq!(next(&mut on_a), b"one");
}

#[test]
fn hosts_that_reconnect_keep_only_the_newest_connection_of_a_key() {
    let Some(mut nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts(&nats);
    nats.stop();
    a.until("comet_cluster_connected", 0);
    b.until("comet_cluster_connected", 0);
    let _on_b = client(&b, 1, "r");
    // Hosts compare times in milliseconds. If these are equal, the name of the host decides.
    thread::sleep(Duration::from_millis(20));
    let mut on_a = client(&a, 1, "r");
    assert_eq!(
        [a.metric("comet_keys"), b.metric("comet_keys")],
        [1, 1],
        "the hosts are disconnected from each other"
    );
    nats.restart();
    until_all_hosts_are_known(&b);
    until_replaced(&b, &a, 1);
    assert_eq!(next(&mut on_a), b"one");
}

#[test]
fn without_shared_sessions_each_host_keeps_its_connection_of_a_key() {
    let Some(nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts_with(&nats, &["nats.sessions=false"]);
    let _clients = [client(&a, 1, "r"), client(&b, 1, "r")];
    until_known(&a, "r", 2);
    assert_eq!(a.push(To::Keys(&["key-1"]), 5, b""), queued(2));
    assert_eq!(a.metric("comet_cluster_keys_told_total"), 0);
}
