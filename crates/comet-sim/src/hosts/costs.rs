//! The costs of hosts and rooms at the broker and at each host.

use std::sync::Arc;

use comet_core::Millis;
use comet_hub::cluster::{Cluster, Event, HostName, Target};

use super::{CALM_MS, RECOVERY_MS, World};

/// The costs of a number of hosts with rooms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostsCosts {
    /// Subscriptions to rooms at the broker, per host.
    pub subscriptions: usize,
    /// Messages to all hosts after all have connected at once, until they know each other's rooms.
    pub messages_to_begin: u64,
    /// Messages to all hosts in a second without pushes.
    pub messages_a_second: u64,
    /// Messages to all hosts for a push to a room, including answers.
    pub messages_a_room_push: u64,
    /// The same for a push by key.
    pub messages_a_key_push: u64,
}

impl HostsCosts {
    /// The costs of `hosts` hosts with `rooms` rooms each. Each room has members on `hosts_a_room` hosts.
    ///
    /// # Errors
    /// A violation.
    pub fn of(hosts: usize, rooms: usize, hosts_a_room: usize) -> Result<Self, String> {
        let mut world = World::new(0, hosts);
        world.broker.subscribes_rooms = true;
        for number in 0..hosts {
            world.start(number);
        }
        world.rooms =
            (0..hosts * rooms / hosts_a_room).map(|it| format!("live://{it}").into()).collect();
        for room in 0..world.rooms.len() {
            for member in 0..hosts_a_room {
                let number = (room * hosts_a_room + member) % hosts;
                let host = &mut world.hosts[number];
                host.members.insert(room, (1, Millis(0)));
                host.cluster.set_interest(Millis(0), &world.rooms[room], true);
            }
        }
        world.pass(RECOVERY_MS + CALM_MS)?;
        let messages_to_begin = world.broker.delivered;
        let mut messages_of = |target: Option<Target>| -> Result<u64, String> {
            let before = world.broker.delivered;
            if let Some(target) = target {
                world.push(0, target);
            }
            world.pass(1_000)?;
            Ok(world.broker.delivered - before)
        };
        let idle = messages_of(None)?;
        let room = messages_of(Some(Target::Room("live://0".into())))? - idle;
        let key = messages_of(Some(Target::Keys(["1".into()].into())))? - idle;
        Ok(Self {
            subscriptions: world.broker.subscriptions() / hosts,
            messages_to_begin,
            messages_a_second: idle,
            messages_a_room_push: room,
            messages_a_key_push: key,
        })
    }
}

/// States of hosts, for measuring their memory.
pub struct Loaded(#[expect(dead_code, reason = "it is held")] Vec<Cluster<()>>);

/// `copies` of the state of a host among `hosts`, with `rooms` rooms, each of which has members on `hosts_a_room`
/// hosts.
#[must_use]
pub fn load(copies: usize, (hosts, rooms, hosts_a_room): (usize, usize, usize)) -> Loaded {
    let host = |_| {
        let mut cluster = Cluster::new("h0".into(), true, 0);
        cluster.handle_event(Millis(0), Event::Connected);
        let others: Vec<HostName> = (1..hosts).map(|it| format!("h{it}").into()).collect();
        for host in &others {
            cluster.handle_event(
                Millis(0),
                Event::Announced { host: host.clone(), reads_stream: false },
            );
        }
        for room in 0..rooms {
            let room: Arc<str> = format!("live://{room}").into();
            cluster.set_interest(Millis(0), &room, true);
            for host in &others[..hosts_a_room - 1] {
                let (host, room) = (host.clone(), Arc::clone(&room));
                let event = Event::Interest { host, room, has_members: true, asks: false };
                cluster.handle_event(Millis(0), event);
            }
            while cluster.poll_command().is_some() {}
        }
        cluster
    };
    Loaded((0..copies).map(host).collect())
}
