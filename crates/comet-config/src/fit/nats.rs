//! Checks that a host has only one kind of credentials, and has servers if it stores histories there.

use crate::choices::HistoryStore;
use crate::keys::Config;
use crate::mistakes::Report;

pub(super) fn fits(report: &mut Report<'_>, config: &Config) {
    let nats = &config.nats;
    let [store, servers] = ["nats.history", "nats.servers"];
    if nats.history == HistoryStore::Jetstream
        && nats.servers.is_empty()
        && report.is_sound(&[store, servers])
    {
        report.value(store, &format!("\"jetstream\" needs {servers}"));
    }
    let [user, password, nkey, credentials] =
        ["nats.user", "nats.password", "nats.nkey", "nats.credentials"];
    let given = [
        (user, nats.user.is_some()),
        (nkey, nats.nkey.is_some()),
        (credentials, nats.credentials.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key);
    if let (Some(first), Some(second)) = (given.next(), given.next())
        && report.is_sound(&[first, second])
    {
        report.value(second, &format!("{first} is given too: one of them is enough"));
    }
    if nats.password.is_some() && nats.user.is_none() && report.is_sound(&[user, password]) {
        report.value(password, &format!("needs {user}"));
    }
    if nats.nkey.as_deref().is_some_and(|seed| !is_seed(seed)) && report.is_sound(&[nkey]) {
        report.value(nkey, "is no seed of a user: it is SU and 56 letters and digits");
    }
}

/// The form of the seed of a user's nkey.
fn is_seed(text: &str) -> bool {
    let is_base32 = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(is_base32)
}
