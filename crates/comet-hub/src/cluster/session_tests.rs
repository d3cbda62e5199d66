//! One owner for each key on all hosts: two hosts with clocks of their own, and a broker that may be cut off.

use std::collections::BTreeMap;

use super::*;

/// A host with one shard. Its home is a map.
struct Host {
    name: &'static str,
    /// The host's clock at the beginning.
    unix_ms: u64,
    cluster: Cluster<()>,
    is_connected: bool,
    owners: BTreeMap<Box<str>, Millis>,
    ended: Vec<Box<str>>,
}

struct World {
    now: u64,
    hosts: Vec<Host>,
    /// The number of keys in each slice that the first host listed.
    slices: Vec<usize>,
}

/// Keys in a slice.
const SLICE: usize = 100;

impl World {
    /// Hosts whose clocks are ahead by these times.
    fn new(ahead: &[(&'static str, u64)]) -> Self {
        let hosts = ahead.iter().map(|&(name, ahead_ms)| Host {
            name,
            unix_ms: 1_000_000 + ahead_ms,
            cluster: Cluster::new(name.into(), true, 1).with_sessions(1, 1_000_000 + ahead_ms),
            is_connected: false,
            owners: BTreeMap::new(),
            ended: Vec::new(),
        });
        let mut world = Self { now: 0, hosts: hosts.collect(), slices: Vec::new() };
        (0..ahead.len()).for_each(|host| world.set_connected(host, true));
        world.pass(3_000);
        world
    }

    fn set_connected(&mut self, host: usize, is_connected: bool) {
        let event = if is_connected { Event::Connected } else { Event::Disconnected };
        self.hosts[host].is_connected = is_connected;
        self.hosts[host].cluster.handle_event(Millis(self.now), event);
    }

    /// Lets `millis` pass, in steps of 10 ms.
    fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.now += 10;
            for host in &mut self.hosts {
                host.cluster.handle_timeout(Millis(self.now));
            }
            while (0..self.hosts.len()).any(|host| self.carry_out(host)) {}
        }
    }

    fn connect(&mut self, host: usize, key: &str) {
        let (now, host) = (Millis(self.now), &mut self.hosts[host]);
        host.owners.insert(key.into(), now);
        host.cluster.claim(now, (key.into(), now));
    }

    fn carry_out(&mut self, index: usize) -> bool {
        let (now, mut moved) = (Millis(self.now), false);
        while let Some(command) = self.hosts[index].cluster.poll_command() {
            moved = true;
            let Command::AnnounceKeys { clock, keys } = command else { continue };
            let host = HostName::from(self.hosts[index].name);
            if !self.hosts[index].is_connected {
                continue;
            }
            for other in (0..self.hosts.len()).filter(|other| *other != index) {
                let other = &mut self.hosts[other];
                if other.is_connected {
                    let event = Event::Keys { host: host.clone(), clock, keys: keys.clone() };
                    other.cluster.handle_event(now, event);
                }
            }
        }
        let host = &mut self.hosts[index];
        while let Some(HeldElsewhere { keys, wins_ties }) = host.cluster.poll_held_elsewhere() {
            moved = true;
            for (key, at) in keys {
                let Some(&own_at) = host.owners.get(&key) else { continue };
                if own_at > at || own_at == at && !wins_ties {
                    host.cluster.claim(now, (key, own_at));
                } else {
                    host.owners.remove(&key);
                    host.ended.push(key);
                }
            }
        }
        while let Some(KeyListing { shard, since, table }) = host.cluster.poll_key_listing() {
            moved = true;
            let owners = host.owners.iter().filter(|(_, at)| **at >= since);
            let rest: Vec<HeldKey> =
                owners.skip(table as usize * SLICE).map(|(key, at)| (key.clone(), *at)).collect();
            let next = (rest.len() > SLICE).then_some(table + 1);
            let keys: Vec<HeldKey> = rest.into_iter().take(SLICE).collect();
            if index == 0 {
                self.slices.push(keys.len());
            }
            host.cluster.take_keys(now, shard, (keys, next));
        }
        moved
    }

    /// Another process takes over the host. It has no connection yet.
    fn upgrade(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        let handed = host.cluster.hand_over(Millis(self.now), host.unix_ms + self.now, None);
        let mut next = Cluster::new(host.name.into(), true, 1).with_sessions(1, host.unix_ms);
        next.take_over(Millis(self.now), handed, []);
        host.cluster = next;
        host.is_connected = false;
    }

    fn owners(&self, key: &str) -> Vec<&'static str> {
        let owners = self.hosts.iter().filter(|host| host.owners.contains_key(key));
        owners.map(|host| host.name).collect()
    }
}

#[test]
fn a_key_that_connects_elsewhere_ends_the_older_connection_whatever_the_clocks_say() {
    for ahead in [[0, 0], [0, 5_000], [5_000, 0]] {
        let mut world = World::new(&[("a", ahead[0]), ("b", ahead[1])]);
        world.connect(0, "k");
        world.pass(100);
        world.connect(1, "k");
        world.pass(100);
        assert_eq!(world.owners("k"), ["b"], "{ahead:?}");
        world.connect(0, "k");
        world.pass(100);
        assert_eq!(world.owners("k"), ["a"], "{ahead:?}");
    }
}

#[test]
fn of_two_connections_in_one_millisecond_one_stays() {
    let mut world = World::new(&[("a", 0), ("b", 0)]);
    world.connect(0, "k");
    world.connect(1, "k");
    world.pass(100);
    assert_eq!(world.owners("k"), ["b"]);
    assert_eq!(world.hosts.iter().map(|host| host.ended.len()).sum::<usize>(), 1);
}

#[test]
fn hosts_that_were_apart_end_up_with_the_younger_connection() {
    for away in [[true, false], [false, true], [true, true]] {
        let mut world = World::new(&[("a", 0), ("b", 0)]);
        world.connect(0, "before");
        world.connect(0, "older on a");
        world.pass(60_000);
        let told = world.hosts[0].cluster.counts().keys_told;
        for (host, is_away) in away.into_iter().enumerate() {
            if is_away {
                world.set_connected(host, false);
            }
        }
        world.pass(10_000);
        world.connect(1, "older on b");
        world.connect(1, "older on a");
        world.pass(10);
        world.connect(0, "older on b");
        world.pass(10_000);
        assert_eq!(world.owners("older on b"), ["a", "b"], "they are apart");
        (0..2).filter(|host| away[*host]).for_each(|host| world.set_connected(host, true));
        world.pass(3_000);
        assert_eq!(world.owners("older on b"), ["a"], "{away:?}");
        assert_eq!(world.owners("older on a"), ["b"], "{away:?}");
        // Only young keys are sent again; the older key is not.
        assert_eq!(world.owners("before"), ["a"]);
        assert!(world.hosts[0].cluster.counts().keys_told <= told + 4, "{away:?}");
    }
}

#[test]
fn keys_are_listed_slice_by_slice() {
    let mut world = World::new(&[("a", 0), ("b", 0)]);
    world.set_connected(0, false);
    for number in 0..950 {
        world.connect(0, &format!("k{number}"));
    }
    world.pass(3_000);
    world.slices.clear();
    world.set_connected(0, true);
    let mut longest = 0;
    while world.slices.iter().sum::<usize>() < 950 {
        let before = world.slices.len();
        world.pass(ANNOUNCE_EVERY_MS);
        longest = longest.max(world.slices.len() - before);
    }
    world.pass(100);
    assert_eq!(longest, 1, "no two slices at once");
    // The first host lists again once it hears that the other one is back, so some keys are sent twice.
    let heard = world.hosts[1].cluster.counts().keys_heard;
    assert!((950..=2 * 950).contains(&heard), "{heard}");
}

#[test]
fn keys_that_find_no_room_are_listed_later() {
    let mut cluster: Cluster<()> = Cluster::new("a".into(), true, 1).with_sessions(1, 1_000);
    cluster.handle_event(Millis(0), Event::Connected);
    cluster.claim(Millis(7), ("k".into(), Millis(7)));
    cluster.handle_timeout(Millis(60));
    let mut commands = std::iter::from_fn(|| cluster.poll_command());
    let is_keys =
        |it: &Command| matches!(it, Command::AnnounceKeys { keys, .. } if !keys.is_empty());
    let command = commands.find(is_keys).expect("the key is told");
    cluster.handle_refused(Millis(61), command);
    cluster.handle_timeout(Millis(200));
    let listing = cluster.poll_key_listing().expect("it is listed");
    assert_eq!((listing.since, listing.shard), (Millis(7), ShardId(0)));
    // A shard that does not answer is asked again.
    cluster.handle_timeout(Millis(10_000));
    assert_eq!(cluster.poll_key_listing(), Some(listing));
}

/// Neither process of the host listens in between, for too short a time to count as silence.
#[test]
fn keys_that_were_announced_during_an_upgrade_are_announced_again() {
    let mut world = World::new(&[("a", 0), ("b", 500)]);
    world.connect(0, "k");
    world.connect(1, "l");
    world.pass(100);
    world.upgrade(0);
    world.pass(100);
    // One key is younger there, the other here.
    world.connect(1, "k");
    world.pass(100);
    world.connect(0, "l");
    world.pass(800);
    assert!(world.hosts.iter().all(|host| host.ended.is_empty()));
    world.set_connected(0, true);
    world.pass(3_000);
    assert_eq!(world.hosts[0].ended, ["k".into()]);
    assert_eq!(world.hosts[1].ended, ["l".into()]);
}

#[test]
fn keys_of_an_outage_are_announced_although_an_upgrade_follows() {
    for is_heard_again in [false, true] {
        let mut world = World::new(&[("a", 0), ("b", 500)]);
        world.connect(0, "k");
        world.connect(1, "l");
        world.pass(5_000);
        // A new process of a host is sent the keys that are younger than it. These keys are older.
        world.upgrade(1);
        world.pass(100);
        world.set_connected(1, true);
        world.pass(5_000);
        world.set_connected(0, false);
        world.pass(30_000);
        world.connect(1, "k");
        world.connect(0, "l");
        world.pass(30_000);
        if is_heard_again {
            // The walk through the keys has just begun.
            world.set_connected(0, true);
            world.pass(10);
        }
        world.upgrade(0);
        world.pass(100);
        world.set_connected(0, true);
        world.pass(3_000);
        let ended = world.hosts.iter().map(|host| &host.ended[..]);
        assert_eq!(ended.collect::<Vec<_>>(), [["k".into()], ["l".into()]], "{is_heard_again}");
    }
}
