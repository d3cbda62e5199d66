//! The sections about who a client is: `[logic]`, `[token]`, `[white_list]` and `[logic_server]`.

use std::collections::HashSet;
use std::time::Duration;

use super::kinds::{Kinds, NAME, is_name, peer};
use super::{HOUR, MILLISECOND, SECOND};
use crate::config::{Logic, LogicServer, Token, WhiteList};
use crate::raw::{RawLogic, RawLogicServer, RawToken, RawWhiteList};
use crate::secrets::without_password;
use crate::units::{Number, Span};

/// Most users on the white list: each of their frames is a line in a file.
const TRACE_USERS_MAX: usize = 65_536;

pub(super) fn logic(check: &mut Kinds<'_>, raw: RawLogic, default: Logic) -> Logic {
    let short = 100 * MILLISECOND..=60 * SECOND;
    let beats = 100 * MILLISECOND..=24 * HOUR;
    // Logic believes the counts for five minutes, goim's too: one report may be missed.
    let reports = 100 * MILLISECOND..=120 * SECOND;
    Logic {
        addrs: check.list("logic.addrs", raw.addrs, default.addrs, peer),
        timeout: check.duration("logic.timeout", raw.timeout, default.timeout, short.clone()),
        calls: check.number("logic.calls", raw.calls, default.calls, 1..=1 << 20),
        ping: check.duration("logic.ping", raw.ping, default.ping, short),
        renew: check.duration("logic.renew", raw.renew, default.renew, reports),
        heartbeat_min: check.duration(
            "logic.heartbeat_min",
            raw.heartbeat_min,
            default.heartbeat_min,
            beats.clone(),
        ),
        heartbeat_max: check.duration(
            "logic.heartbeat_max",
            raw.heartbeat_max,
            default.heartbeat_max,
            beats,
        ),
        retry_after: check.duration(
            "logic.retry_after",
            raw.retry_after,
            default.retry_after,
            Duration::ZERO..=HOUR,
        ),
    }
}

pub(super) fn token(check: &mut Kinds<'_>, raw: RawToken, default: Token) -> Token {
    let mut claim = |key, raw, default| {
        let is_claim = |name: &str| !name.is_empty() && is_name(name);
        check.text(key, raw, default, is_claim, NAME)
    };
    let mid = claim("token.mid", raw.mid, default.mid);
    let key = claim("token.key", raw.key, default.key);
    let room = claim("token.room", raw.room, default.room);
    let accepts = claim("token.accepts", raw.accepts, default.accepts);
    Token {
        kind: raw.kind.unwrap_or(default.kind),
        jwt_keys: check.files("token.jwt_keys", raw.jwt_keys, default.jwt_keys),
        jwt_algorithms: raw.jwt_algorithms.unwrap_or(default.jwt_algorithms),
        issuer: raw.issuer.filter(|text| !text.is_empty()),
        audience: raw.audience.filter(|text| !text.is_empty()),
        mid,
        key,
        room,
        accepts,
    }
}

pub(super) fn white_list(
    check: &mut Kinds<'_>,
    raw: RawWhiteList,
    default: WhiteList,
) -> WhiteList {
    let mut users = raw.users.map_or(default.users, |users| {
        users.into_iter().map(|Number(user)| user).collect::<Vec<_>>()
    });
    users.sort_unstable();
    users.dedup();
    if users.len() > TRACE_USERS_MAX {
        let what = format!("{} users are too many: up to {TRACE_USERS_MAX}", users.len());
        check.report.value("white_list.users", &what);
    }
    WhiteList { users, file: check.file("white_list.file", raw.file, default.file) }
}

pub(super) fn logic_server(
    check: &mut Kinds<'_>,
    raw: RawLogicServer,
    default: LogicServer,
) -> LogicServer {
    let mut ids = HashSet::new();
    let comet = |text: &str| {
        let (id, address) = text
            .split_once('=')
            .filter(|(id, _)| !id.is_empty() && is_name(id))
            .ok_or_else(|| format!("{text:?} is not a comet: write SERVER-ID=HOST:PORT"))?;
        if !ids.insert(id.to_owned()) {
            return Err(format!("{id:?} is named twice"));
        }
        Ok((id.to_owned(), peer(address)?))
    };
    let redis = |text: &str| {
        if is_redis(text) {
            return Ok(text.to_owned());
        }
        let shown = without_password(text);
        Err(format!("{shown:?} is not a Redis address: write redis://HOST:PORT"))
    };
    LogicServer {
        grpc: check.addresses("logic_server.grpc", raw.grpc, default.grpc),
        http: check.addresses("logic_server.http", raw.http, default.http),
        stat: check.addresses("logic_server.stat", raw.stat, default.stat),
        comets: check.list("logic_server.comets", raw.comets, default.comets, comet),
        heartbeat: match raw.heartbeat {
            Some(Span(Duration::ZERO)) => Duration::ZERO,
            heartbeat => check.duration(
                "logic_server.heartbeat",
                heartbeat,
                default.heartbeat,
                SECOND..=24 * HOUR,
            ),
        },
        store: raw.store.unwrap_or(default.store),
        redis: check.list("logic_server.redis", raw.redis, default.redis, redis),
        expire: check.duration(
            "logic_server.expire",
            raw.expire,
            default.expire,
            SECOND..=24 * HOUR,
        ),
    }
}

/// Whether `text` is `redis://[user:password@]host[:port][/database]`.
fn is_redis(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("redis://") else {
        return false;
    };
    let (place, more) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let address = place.rsplit_once('@').map_or(place, |(_, address)| address);
    let database = more.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    text.bytes().all(|b| b.is_ascii_graphic())
        && (peer(address).is_ok() || peer(&format!("{address}:6379")).is_ok())
        && (database.is_empty() || database.parse::<i64>().is_ok())
}
