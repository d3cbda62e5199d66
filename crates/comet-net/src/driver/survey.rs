//! Counts which connections of a core another process could continue.

use comet_core::LeftBehind;
use comet_handover::feature;
use comet_logic::Authenticator;

use super::Driver;
use crate::commands::Survey;

impl<A: Authenticator> Driver<A> {
    pub(super) fn survey(&self) -> Survey {
        let obstacles = self.shard.obstacles();
        let required = self.shard.required_by_connections();
        let mut survey = Survey {
            orders: obstacles.orders,
            calls: obstacles.calls,
            required,
            ..Survey::default()
        };
        let mut layers = self.sockets.all().filter_map(|socket| socket.layers.as_ref());
        if layers.any(|layers| layers.session().is_some()) {
            survey.required.push(feature::TLS);
        }
        if self.listeners.iter().any(|listener| listener.tls.is_some()) {
            survey.required.push(feature::TICKET_KEYS);
        }
        for (_, why) in self.shard.left_behind() {
            match why {
                LeftBehind::Handshake => survey.handshakes += 1,
                LeftBehind::AwaitsAnswer => survey.await_answers += 1,
                LeftBehind::Closing => survey.closing += 1,
            }
        }
        let stay = survey.handshakes + survey.await_answers + survey.closing;
        // The slot of a connection that has just closed may still be taken.
        survey.movable = self.sockets.all().count().saturating_sub(stay);
        survey
    }
}
