//! `comet listen` and `comet push`: a client and a push caller, for a first try and for operators.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read};

use comet_client::{Error as ClientError, Event, Options, TlsError, TlsOptions};

use crate::args::{EXIT_NO_MATCH, Listen, Push, Target};
use crate::caller::{Ledger, PushClient, PushError, TlsFiles};
use crate::output::{Reader, note, print};

/// Most bytes of a message or token that are read: the largest `push.frame_max`.
const READ_MAX: u64 = 64 << 20;

/// Connects as a client and prints the messages that arrive, until standard output is closed. Reconnects by
/// itself.
///
/// # Errors
/// If standard output fails for another reason, if no address is known, if the token cannot be read, or if TLS
/// fails in a way that waiting does not mend.
pub fn listen(listen: &Listen) -> Result<(), Box<dyn Error>> {
    let address = listen.address().ok_or("TLS over TCP has no usual port: name it with --addr")?;
    let token = match &listen.token {
        Some(argument) => token(argument)?,
        None => listen.user.to_string().into(),
    };
    let mut options = if listen.ws {
        Options::websocket(address, &listen.path, token)
    } else {
        Options::tcp(address, token)
    };
    if listen.tls {
        options = options.tls(tls(listen)?);
    }
    let mut listener = options.reconnecting();
    let mut place = String::new();
    if let Some(room) = &listen.room {
        listener.join(room)?;
        place = format!(", in room {room}");
    }
    let mut has_connected = false;
    for event in listener {
        match event {
            Event::Connected => {
                has_connected = true;
                note(format_args!("connected to {address}{place}"));
            }
            Event::Message(message) => {
                let text = String::from_utf8_lossy(&message.body);
                if print(format_args!("op {}: {text}", message.operation))? == Reader::Left {
                    break;
                }
            }
            Event::Disconnected { reason: ClientError::Tls(error), .. } => {
                return Err(format!("{address}: {error}{}", advice(&error)).into());
            }
            Event::Disconnected { reason, retry_in: None } => {
                return Err(format!("{address}: {reason}").into());
            }
            Event::Disconnected { reason, retry_in: Some(delay) } => {
                // The end is all that a TCP listener without TLS says to a TLS handshake.
                let is_in_doubt =
                    listen.tls && !has_connected && matches!(reason, ClientError::Ended);
                let doubt = if is_in_doubt { " (perhaps it speaks no TLS here)" } else { "" };
                let delay = delay.as_secs_f32();
                note(format_args!("disconnected: {reason}{doubt}; again in {delay:.1} s"));
            }
        }
    }
    Ok(())
}

fn tls(listen: &Listen) -> Result<TlsOptions, Box<dyn Error>> {
    let options = match &listen.ca {
        Some(path) => {
            let named = |error: &dyn Error| format!("--ca {}: {error}", path.display());
            let pem = fs::read(path).map_err(|error| named(&error))?;
            TlsOptions::with_authorities(&pem).map_err(|error| named(&error))?
        }
        None => TlsOptions::new(),
    };
    Ok(match &listen.server_name {
        Some(name) => options.server_name(name),
        None => options,
    })
}

/// Advice, as the end of a sentence.
fn advice(error: &TlsError) -> &'static str {
    match error {
        TlsError::Untrusted => "; name the certificate of its authority with --ca",
        TlsError::OtherName(_) => "; if that is the server you mean, name it with --server-name",
        TlsError::CaCertificate => "; make one with basicConstraints=CA:FALSE for the server",
        TlsError::NotTls => "; leave --tls out, or name an address that is bound for TLS",
        _ => "",
    }
}

/// The bytes of a `--token`. The newline at the end of a file is not part of it.
fn token(argument: &str) -> Result<Vec<u8>, String> {
    let Some(path) = argument.strip_prefix('@') else { return Ok(argument.into()) };
    let named = |error: io::Error| format!("--token {path}: {error}");
    let mut token = File::open(path).and_then(read).map_err(named)?;
    while token.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        token.pop();
    }
    Ok(token)
}

fn read(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(READ_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > READ_MAX {
        return Err(io::Error::other(format!("more than {READ_MAX} bytes")));
    }
    Ok(bytes)
}

/// Pushes one message and prints its ledger. Returns the exit code: 0, or [`EXIT_NO_MATCH`].
///
/// # Errors
/// If the message or token cannot be read, no server answers, or the server refuses.
pub fn push(push: &Push) -> Result<u8, Box<dyn Error>> {
    let body = match push.text() {
        "-" => read(io::stdin()).map_err(|error| format!("standard input: {error}"))?,
        text => text.into(),
    };
    let token = push.token.as_deref().map(token).transpose()?;
    let files = TlsFiles {
        certificate: push.certificate.clone(),
        key: push.private_key.clone(),
        client_ca: None,
        server_ca: push.ca.clone(),
    };
    let mut client = PushClient::connect_with(&push.grpc, &files).map_err(|error| match error {
        PushError::Tls(error) => format!("{}: {error}", flag(error.field)),
        error => error.to_string(),
    })?;
    if let Some(token) = token {
        client = client.with_token(&token)?;
    }
    let operation = push.operation;
    let ledger = match &push.target {
        Target::Key { key, .. } => client.push_keys(vec![key.clone()], operation, &body)?,
        Target::User { user, .. } => client.push_users(vec![*user], operation, &body)?,
        Target::Room { room, .. } => client.push_room(room.clone(), operation, &body)?,
        Target::All { speed, .. } => client.broadcast(operation, &body, *speed)?,
    };
    let Some(ledger) = ledger else {
        print("pushed; the server sends no ledger")?;
        return Ok(0);
    };
    print(describe(&ledger))?;
    Ok(if ledger.matched + ledger.scheduled == 0 { EXIT_NO_MATCH } else { 0 })
}

/// What names a file of [`TlsFiles`].
fn flag(field: &str) -> &'static str {
    match field {
        "certificate" => "--certificate",
        "key" => "--key",
        _ => "--ca",
    }
}

fn describe(ledger: &Ledger) -> String {
    let mut text = format!("matched {} queued {}", ledger.matched, ledger.queued);
    let mut dropped: Vec<_> = ledger.dropped.iter().collect();
    dropped.sort();
    for (reason, count) in dropped {
        text += &format!(" dropped({reason}) {count}");
    }
    if ledger.scheduled > 0 {
        text += &format!(" scheduled {}", ledger.scheduled);
    }
    if ledger.absent > 0 {
        text += &format!(" absent {}", ledger.absent);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_bounded() {
        assert_eq!(read(&b"text\n"[..]).unwrap(), b"text\n");
        let most = read(io::repeat(0).take(READ_MAX)).unwrap();
        assert_eq!(most.len() as u64, READ_MAX);
        let said = read(io::repeat(0)).unwrap_err().to_string();
        assert_eq!(said, "more than 67108864 bytes");
    }
}
