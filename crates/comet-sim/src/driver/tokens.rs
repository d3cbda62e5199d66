//! Tokens that embedded logic checks.

use comet_core::{AuthRequest, ConnId, Denied, Identity};

use crate::env::Env;
use crate::profile;

use super::Driver;

impl Driver {
    /// Decides about tokens, at once or later.
    pub(super) fn poll_auths(&mut self, env: &mut Env) {
        while let Some(request) = self.shard.poll_auth() {
            match env.rng.between(0, env.plan.auth_ms_max) {
                0 => self.decide(env, &request),
                delay => self.auths.push((env.now.after(delay), request)),
            }
        }
    }

    /// Passes on the answers of logic that are due.
    pub(super) fn answer(&mut self, env: &mut Env) {
        let (due, waiting) =
            std::mem::take(&mut self.auths).into_iter().partition(|(due, _)| *due <= env.now);
        self.auths = waiting;
        for (_, request) in due {
            self.decide(env, &request);
        }
    }

    /// Notes when the first or a later token of `conn` expires.
    pub(super) fn note_expiry(
        &mut self,
        env: &mut Env,
        conn: ConnId,
        answer: &Result<Identity, Denied>,
    ) {
        if let Ok(identity) = answer
            && let Some(&peer) = self.slots.get(&conn.slot)
            && env.peers[peer].conn == Some(conn)
            && env.peers[peer].client.profile.is_renewed_by(identity, &env.plan)
            && self.shard.is_open(conn)
        {
            let expires_at = identity.expires_in_ms.map(|millis| env.now.after(millis));
            env.peers[peer].token_expires_at = expires_at;
        }
    }

    fn decide(&mut self, env: &mut Env, request: &AuthRequest) {
        env.note_activity();
        let answer = profile::auth(&request.token, &request.cookie, &env.plan);
        let answer = answer.map_err(Denied::refused);
        self.note_expiry(env, request.conn, &answer);
        self.shard.handle_auth(request.conn, answer);
    }
}
