//! `comet push`: a push caller, for a first try and for operators.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::{Api, EXIT_NO_MATCH, Push, Target};
use crate::blocking_client::{Ledger, PushClient, PushError, TlsFiles};
use crate::inputs::{Messages, list, token};
use crate::output::print;

/// Keys of one push: no more than a server takes by default (`push.keys_max`).
const KEYS_MAX: usize = 1000;

/// A connection without a call for this long is replaced. While a message is read, this client does not answer the
/// server's pings.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Pushes the messages and prints the sum of their ledgers. Returns the exit code: 0, or [`EXIT_NO_MATCH`].
///
/// # Errors
/// If a message, a file of keys or the token cannot be read, no server answers, or the server refuses a push. The
/// refused push is the last one; the sum of the earlier ones is printed.
pub fn push(push: &Push) -> Result<u8, Box<dyn Error>> {
    let mut pusher = Pusher::new(push)?;
    let mut messages = Messages::open(push.target.input())?;
    let mut sum = Sum::default();
    let pushed = pusher.push_all(&mut messages, &mut sum);
    if pushed.is_ok() || sum.pushes > 0 {
        print(sum.describe(push.target.input().lines))?;
    }
    pushed.map(|()| sum.code())
}

struct Pusher<'a> {
    push: &'a Push,
    /// The targets, with one call each.
    targets: Vec<To>,
    client: PushClient,
    last: Instant,
}

/// The target of a call.
enum To {
    Keys(Vec<String>),
    User(i64),
    Room(String),
    All { speed: Option<u32> },
}

impl<'a> Pusher<'a> {
    fn new(push: &'a Push) -> Result<Self, Box<dyn Error>> {
        let targets = targets(&push.target)?;
        Ok(Self { push, targets, client: connect(&push.api)?, last: Instant::now() })
    }

    fn push_all(&mut self, messages: &mut Messages, sum: &mut Sum) -> Result<(), Box<dyn Error>> {
        let pause = self.push.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate);
        let mut due = Instant::now();
        while let Some(body) = messages.next()? {
            for target in &self.targets {
                let now = Instant::now();
                thread::sleep(due.saturating_duration_since(now));
                due = due.max(now) + pause;
                if self.last.elapsed() > IDLE_MAX {
                    self.client = connect(&self.push.api)?;
                }
                let ledger = call(&self.client, target, self.push.operation, &body);
                sum.add(ledger.map_err(|error| match sum.pushes {
                    0 => error.to_string(),
                    before => format!("push {}: {error}", before + 1),
                })?);
                self.last = Instant::now();
            }
        }
        Ok(())
    }
}

fn targets(target: &Target) -> Result<Vec<To>, String> {
    Ok(match target {
        Target::Key { key, .. } => vec![To::Keys(vec![key.clone()])],
        Target::Keys { names, from, .. } => {
            let more = from.as_deref().map(list).transpose()?.unwrap_or_default();
            let keys: BTreeSet<&String> = names.iter().chain(&more).collect();
            let keys: Vec<String> = keys.into_iter().cloned().collect();
            keys.chunks(KEYS_MAX).map(|keys| To::Keys(keys.to_vec())).collect()
        }
        Target::User { user, .. } => vec![To::User(*user)],
        Target::Room { room, .. } => vec![To::Room(room.clone())],
        Target::All { speed, .. } => vec![To::All { speed: *speed }],
    })
}

fn call(
    client: &PushClient,
    target: &To,
    operation: i32,
    body: &[u8],
) -> Result<Option<Ledger>, PushError> {
    match target {
        To::Keys(keys) => client.push_keys(keys.clone(), operation, body),
        To::User(user) => client.push_users(vec![*user], operation, body),
        To::Room(room) => client.push_room(room.clone(), operation, body),
        To::All { speed } => client.broadcast(operation, body, *speed),
    }
}

/// A connection to the server that the flags name.
///
/// # Errors
/// If a file cannot be used, or no server answers.
pub(crate) fn connect(api: &Api) -> Result<PushClient, Box<dyn Error>> {
    let token = api.access.token.as_deref().map(token).transpose()?;
    let files = TlsFiles {
        certificate: api.certificate.clone(),
        key: api.private_key.clone(),
        client_ca: None,
        server_ca: api.access.ca.clone(),
    };
    let client = PushClient::connect_with(&api.grpc, &files).map_err(|error| match error {
        PushError::Tls(error) => format!("{}: {error}", flag(error.field)),
        error => error.to_string(),
    })?;
    Ok(match token {
        Some(token) => client.with_token(&token)?,
        None => client,
    })
}

/// The flag that names a file of [`TlsFiles`].
fn flag(field: &str) -> &'static str {
    match field {
        "certificate" => "--certificate",
        "key" => "--key",
        _ => "--ca",
    }
}

/// The sum of ledgers.
#[derive(Default)]
struct Sum {
    pushes: u64,
    /// Whether a server sent no ledger.
    is_unknown: bool,
    ledger: Ledger,
    /// Number of pushes that a host has not answered, by its name.
    unanswered: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, ledger: Option<Ledger>) {
        self.pushes += 1;
        let Some(more) = ledger else {
            self.is_unknown = true;
            return;
        };
        let sum = &mut self.ledger;
        sum.matched += more.matched;
        sum.queued += more.queued;
        sum.scheduled += more.scheduled;
        sum.absent += more.absent;
        sum.parked += more.parked;
        for (reason, count) in more.dropped {
            *sum.dropped.entry(reason).or_default() += count;
        }
        for host in more.unanswered {
            *self.unanswered.entry(host).or_default() += 1;
        }
    }

    fn code(&self) -> u8 {
        let is_nobody = self.ledger.matched + self.ledger.scheduled + self.ledger.parked == 0;
        if is_nobody && !self.is_unknown { EXIT_NO_MATCH } else { 0 }
    }

    /// Includes the number of pushes if there may be several.
    fn describe(&self, are_many: bool) -> String {
        let Self { pushes, ledger, unanswered, .. } = self;
        let has_count = are_many || *pushes > 1;
        if self.is_unknown {
            let pushed = if has_count { format!("pushes {pushes}") } else { "pushed".to_owned() };
            return pushed + "; the server sends no ledger";
        }
        let mut text = if has_count { format!("pushes {pushes} ") } else { String::new() };
        text += &format!("matched {} queued {}", ledger.matched, ledger.queued);
        for (reason, count) in &ledger.dropped {
            text += &format!(" dropped({reason}) {count}");
        }
        if ledger.scheduled > 0 {
            text += &format!(" scheduled {}", ledger.scheduled);
        }
        if ledger.absent > 0 {
            text += &format!(" absent {}", ledger.absent);
        }
        if ledger.parked > 0 {
            text += &format!(" parked {}", ledger.parked);
        }
        for (host, count) in unanswered {
            text += &format!(" unanswered({}) {count}", host.escape_debug());
        }
        text
    }
}
