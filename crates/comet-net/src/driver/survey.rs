//! What of a core another process could go on with.

use comet_core::LeftBehind;
use comet_logic::Authenticator;

use super::Driver;
use crate::orders::Survey;
use crate::sockets::Socket;

impl<A: Authenticator> Driver<A> {
    pub(super) fn survey(&self) -> Survey {
        let obstacles = self.shard.obstacles();
        let mut survey = Survey { paced: obstacles.paced, ..Survey::default() };
        let mut tls_left = 0;
        for (conn, why) in self.shard.left_behind() {
            match why {
                LeftBehind::Handshake => survey.handshakes += 1,
                LeftBehind::AwaitsAnswer => survey.await_answers += 1,
                LeftBehind::Closing => survey.closing += 1,
            }
            let socket = self.sockets.get(conn.slot);
            tls_left += usize::from(socket.is_some_and(Socket::is_tls));
        }
        let (mut sockets, mut tls) = (0, 0);
        for socket in self.sockets.all() {
            sockets += 1;
            tls += usize::from(socket.is_tls());
        }
        survey.tls = tls - tls_left;
        let stay = survey.tls + survey.handshakes + survey.await_answers + survey.closing;
        // The slot of one that has just closed may still be taken.
        survey.movable = usize::saturating_sub(sockets, stay);
        survey
    }
}
