//! The steps of a live upgrade. While a core is frozen, no operation sends or receives a byte, so the driver knows for
//! every socket what the kernel took. Then the sockets are offered to another process. Afterwards either this process
//! continues as before, or it closes the sockets. docs/adr/0016-live-upgrade.md has the reasons.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use comet_core::{Budget, Slot};
use comet_handover::feature;
use comet_logic::Authenticator;
use comet_record::ImportError;

use super::{Driver, TURN_TIME};
use crate::certificates::Tls;
use crate::commands::{CommandResult, CoreCommand, FrozenTurn, Offer, OfferSink};
use crate::ids::ListenerIndex;
use crate::layers::ProtocolLayers;
use crate::ring::Operation;
use crate::settings::{Arrived, Listener};
use crate::tls::TlsSession;

/// The time within which the operations of a core must end. 15,000 sends take some 100 ms.
const FREEZE_TIME: Duration = Duration::from_secs(2);

/// Whether the driver continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Running,
    /// The driver ends, and closes its sockets.
    Released,
}

impl<A: Authenticator> Driver<A> {
    /// Serves the commands of the core's owner. While the core is frozen this waits for the next command.
    pub(super) fn serve_commands(&mut self) -> Outcome {
        while self.is_frozen || self.commands.is_waiting() {
            let Ok(command) = self.commands.next() else { return Outcome::Released };
            match command {
                CoreCommand::StopAccepts(answer) => {
                    self.stop_accepts();
                    let _ = answer.send(Ok(()));
                }
                CoreCommand::HoldInput(answer) => {
                    self.shard.hold_input();
                    let _ = answer.send(Ok(()));
                }
                CoreCommand::HoldCallers(is_held, answer) => {
                    self.shard.hold_callers(is_held);
                    let _ = answer.send(Ok(()));
                }
                CoreCommand::CloseUnmovable(retry_after_ms, answer) => {
                    self.shard.close_left_behind(retry_after_ms);
                    let _ = answer.send(Ok(()));
                }
                CoreCommand::Survey(answer) => drop(answer.send(self.survey())),
                CoreCommand::Freeze(answer) => drop(answer.send(self.freeze())),
                CoreCommand::Turn(answer) => drop(answer.send(self.frozen_turn())),
                CoreCommand::Offer(sink, answer) => {
                    if let Err(error) = self.offer(sink) {
                        let _ = answer.send(Err(error));
                        continue;
                    }
                    let _ = answer.send(Ok(()));
                    if (Offered { driver: self }).wait() == Outcome::Released {
                        return Outcome::Released;
                    }
                }
                CoreCommand::Adopt(arrived, answer) => drop(answer.send(self.adopt(*arrived))),
                CoreCommand::Thaw(answer) => {
                    self.thaw();
                    let _ = answer.send(Ok(()));
                }
                CoreCommand::Release(answer) => {
                    let _ = answer.send(Ok(()));
                    return Outcome::Released;
                }
            }
        }
        Outcome::Running
    }

    /// Stops the accepts. Clients that connect from here on wait in the kernel for the process that accepts next.
    fn stop_accepts(&mut self) {
        self.has_stopped_accepts = true;
        for (index, _) in (0..).map(ListenerIndex).zip(&self.listeners) {
            self.ring.cancel_accepts(index);
        }
    }

    /// Stops the kernel from doing anything more with the sockets, and handles what it has done. The receives stay in
    /// flight; without buffers they take nothing.
    fn freeze(&mut self) -> CommandResult {
        if std::mem::replace(&mut self.is_frozen, true) {
            return Ok(());
        }
        self.ring.flush();
        self.handle_all_completions();
        self.ring.take_buffers_back();
        self.cancel_effects();
        let end = Instant::now() + FREEZE_TIME;
        let mut is_late = false;
        while self.ring.effects_in_flight() > 0 || self.ring.has_overflown() {
            if is_late {
                let left = self.ring.effects_in_flight();
                // Completions that the kernel still keeps may name buffers, and the kernel is about to get these anew.
                while self.ring.has_overflown() {
                    self.ring.wait_for_effects(Duration::ZERO);
                    self.handle_all_completions();
                }
                self.thaw();
                return Err(format!("{left} operations do not end"));
            }
            // The clock is read before the completions are handled. A thread that was held up fails only for operations
            // still in flight.
            is_late = Instant::now() >= end;
            self.ring.wait_for_effects(FREEZE_TIME / 8);
            self.handle_all_completions();
        }
        Ok(())
    }

    fn cancel_effects(&mut self) {
        let Self { ring, sockets, listeners, callers, .. } = self;
        for (index, _) in (0..).map(ListenerIndex).zip(&*listeners) {
            ring.cancel_accepts(index);
        }
        for socket in sockets.all().filter(|socket| socket.is_sending) {
            ring.cancel(Operation::Send(socket.conn.slot));
        }
        callers.operations().for_each(|operation| ring.cancel(operation));
    }

    fn handle_all_completions(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        loop {
            self.ring.take(&mut completions, usize::MAX);
            if completions.is_empty() {
                break;
            }
            for completion in completions.drain(..) {
                self.handle_completion(completion);
            }
            self.buffers.publish();
        }
        self.completions = completions;
    }

    /// Does the work that needs no sockets: messages of other shards and of control, and pushes, whose frames wait.
    fn frozen_turn(&mut self) -> FrozenTurn {
        let begin = Instant::now();
        self.turn_end = begin + TURN_TIME;
        self.update_time(begin);
        // Unsent frames do not hold back pushes here: a frozen core cannot send them.
        self.has_sends_left = false;
        let has_received = self.inbox.depth() > 0;
        self.shard.begin_hand_over();
        self.shard.handle_listings(&mut Budget::slice(), &mut self.sockets);
        self.handle_messages();
        self.authenticate();
        self.handle_crowds();
        self.log_closed();
        self.shut_sockets();
        let has_sent = self.send_messages();
        self.send_reports();
        let obstacles = self.shard.obstacles();
        FrozenTurn {
            is_still: !has_received && !has_sent && self.inbox.depth() == 0,
            obstacles: (!obstacles.may_hand_over()).then(|| obstacles.to_string()),
        }
    }

    /// Passes the state and the sockets to `sink`.
    fn offer(&mut self, sink: OfferSink) -> CommandResult {
        if !self.is_frozen {
            return Err("it is not frozen".into());
        }
        let obstacles = self.shard.obstacles();
        if !obstacles.may_hand_over() {
            return Err(format!("under way: {obstacles}"));
        }
        // Relative times in the state count from this instant.
        self.update_time(Instant::now());
        let (mut state, conns) = self.shard.hand_over();
        let mut sockets = Vec::with_capacity(conns.len());
        for (conn, record) in conns.iter().zip(&mut state.connections) {
            let socket = self.sockets.get(conn.slot).expect("a connection has a socket");
            if let Some(layers) = &socket.layers {
                record.address = layers.peer().map_or_else(String::new, |peer| peer.to_string());
                if let Some(session) = layers.session() {
                    let tls = session.export();
                    let tls = tls.ok_or("a TLS session of a live connection has ended")?;
                    record.tls = Some(Box::new(tls));
                }
            }
            sockets.push(socket.as_fd());
        }
        if state.connections.iter().any(|conn| conn.tls.is_some()) {
            state.required.push(feature::TLS.into());
        }
        state.ticket_keys = self.tls().map(Tls::export_ticket_keys);
        if state.ticket_keys.is_some() {
            state.required.push(feature::TICKET_KEYS.into());
        }
        sink(Offer { state, sockets }).map_err(|error| error.to_string())
    }

    /// Continues as before the freeze: cancelled operations are submitted again.
    fn thaw(&mut self) {
        self.is_frozen = false;
        self.has_stopped_accepts = false;
        self.ring.give_buffers(&mut self.buffers);
        self.rearm_receives();
        self.rearm_callers();
        // Input that is read next sets deadlines.
        self.update_time(Instant::now());
        self.shard.release_input();
        for slot in std::mem::take(&mut self.ciphertext_waits) {
            if self.sockets.get(slot).is_some() {
                self.send_ciphertext(slot);
            }
        }
    }

    /// The address of an arrived client whose PROXY header named `client`. If the header named no client, the socket's
    /// own address is that of the proxy, and the client has none.
    fn client_address(&mut self, slot: Slot, client: Option<SocketAddr>) -> Option<IpAddr> {
        if let Some(client) = client {
            return Some(client.ip());
        }
        let peer = self.sockets.at(slot).peer()?.ip();
        let is_proxy = |listener: &Listener| {
            listener.proxy_from.as_ref().is_some_and(|proxies| proxies.contains(peer))
        };
        (!self.listeners.iter().any(is_proxy)).then_some(peer)
    }

    /// The TLS configuration that the listeners share.
    fn tls(&self) -> Option<&Tls> {
        self.listeners.iter().find_map(|listener| listener.tls.as_ref())
    }

    /// Adopts the connections of another process.
    fn adopt(&mut self, arrived: Arrived) -> CommandResult {
        if !self.is_frozen || self.sockets.all().next().is_some() {
            return Err("it has begun its work".to_owned());
        }
        // Deadlines are relative to the shard's time, and a frozen core has no turns to update it.
        self.update_time(Instant::now());
        let Arrived { mut part, sockets } = arrived;
        let needs_addresses = self.shard.limits().needs_addresses();
        let import = |tls| TlsSession::import(tls, &self.tls_budget);
        let sessions = part.take_tls().into_iter().map(|tls| tls.map(import).transpose());
        let sessions = sessions.collect::<Result<Vec<_>, ImportError>>();
        let sessions = sessions.map_err(|error| format!("a TLS session: {error}"))?;
        if let Some((tls, keys)) = self.tls().zip(part.take_ticket_keys()) {
            let imported = tls.import_ticket_keys(&keys);
            imported.map_err(|error| format!("the keys of session tickets: {error}"))?;
        }
        let conns = self.shard.take_over(part);
        for ((conn, socket), session) in conns.into_iter().zip(sockets).zip(sessions) {
            if session.as_ref().is_some_and(TlsSession::has_ciphertext) {
                self.ciphertext_waits.push(conn.slot);
            }
            self.sockets.insert(socket.fd, conn, ProtocolLayers::arrived(socket.peer, session));
            if needs_addresses && let Some(address) = self.client_address(conn.slot, socket.peer) {
                self.shard.adopt_source(conn, address);
            }
            self.to_receive.push(conn.slot);
        }
        Ok(())
    }
}

/// A driver whose sockets another process may have. It only waits for the outcome, and above all never calls
/// `shutdown(2)`, which would end the connections of the other process.
struct Offered<'a, A> {
    driver: &'a mut Driver<A>,
}

impl<A: Authenticator> Offered<'_, A> {
    /// Waits for the outcome.
    fn wait(self) -> Outcome {
        loop {
            let refused = || Err("its sockets are offered".to_owned());
            match self.driver.commands.next() {
                Err(_) => return Outcome::Released,
                Ok(CoreCommand::Thaw(answer)) => {
                    self.driver.thaw();
                    let _ = answer.send(Ok(()));
                    return Outcome::Running;
                }
                Ok(CoreCommand::Release(answer)) => {
                    let _ = answer.send(Ok(()));
                    return Outcome::Released;
                }
                Ok(
                    CoreCommand::StopAccepts(answer)
                    | CoreCommand::HoldInput(answer)
                    | CoreCommand::HoldCallers(_, answer)
                    | CoreCommand::CloseUnmovable(_, answer)
                    | CoreCommand::Freeze(answer)
                    | CoreCommand::Adopt(_, answer)
                    | CoreCommand::Offer(_, answer),
                ) => drop(answer.send(refused())),
                Ok(CoreCommand::Survey(answer)) => drop(answer.send(self.driver.survey())),
                Ok(CoreCommand::Turn(answer)) => {
                    let obstacles = Some("its sockets are offered".to_owned());
                    let _ = answer.send(FrozenTurn { is_still: false, obstacles });
                }
            }
        }
    }
}
