//! `comet listen` and `comet push`: a client and a push caller, for a first try and for operators.

use std::error::Error;
use std::fs;
use std::io::{self, Write};

use comet_client::{Error as ClientError, Event, Options, TlsError, TlsOptions};

use crate::args::{Listen, Push, Target};
use crate::caller::{Ledger, PushClient};

/// Joins a room and prints what arrives, until standard output is closed. Reconnects by itself.
///
/// # Errors
/// If standard output fails for another reason, if no address is known, or if TLS fails in a way that
/// waiting does not mend.
pub fn listen(listen: &Listen) -> Result<(), Box<dyn Error>> {
    let address = listen.address().ok_or("TLS over TCP has no usual port: name it with --addr")?;
    let token = listen.user.to_string();
    let mut options = if listen.ws {
        Options::websocket(address, "/sub", token)
    } else {
        Options::tcp(address, token)
    };
    if listen.tls {
        options = options.tls(tls(listen)?);
    }
    let mut listener = options.reconnecting();
    let mut out = io::stdout().lock();
    listener.join(&listen.room)?;
    for event in listener {
        let written = match event {
            Event::Connected => {
                eprintln!("connected to {address}, in room {}", listen.room);
                Ok(())
            }
            Event::Message(message) => {
                let text = String::from_utf8_lossy(&message.body);
                writeln!(out, "op {}: {text}", message.operation).and_then(|()| out.flush())
            }
            Event::Disconnected { reason: ClientError::Tls(error), .. } => {
                return Err(format!("{address}: {error}{}", advice(&error)).into());
            }
            Event::Disconnected { reason, retry_in } => {
                eprintln!("disconnected: {reason}; again in {:.1} s", retry_in.as_secs_f32());
                Ok(())
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            other => other?,
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
        TlsError::Untrusted => "; name the certificate of who signed it with --ca",
        TlsError::OtherName(_) => "; if that is the server you mean, name it with --server-name",
        TlsError::CaCertificate => "; make one with basicConstraints=CA:FALSE for the server",
        TlsError::NotTls => "; leave --tls out, or name an address that is bound for TLS",
        _ => "",
    }
}

/// Pushes one message and prints its ledger.
///
/// # Errors
/// If nobody answers, or the server refuses.
pub fn push(push: &Push) -> Result<(), Box<dyn Error>> {
    let token = push.api_token.as_deref().map(read_token).transpose()?;
    let client = PushClient::connect_with(&push.grpc, token.as_deref())?;
    let operation = push.operation;
    let ledger = match &push.target {
        Target::Key { key, text } => {
            client.push_keys(vec![key.clone()], operation, text.as_bytes())?
        }
        Target::User { user, text } => {
            client.push_users(vec![*user], operation, text.as_bytes())?
        }
        Target::Room { room, text } => {
            client.push_room(room.clone(), operation, text.as_bytes())?
        }
        Target::All { text } => client.broadcast(operation, text.as_bytes(), None)?,
    };
    println!("{}", describe(&ledger));
    Ok(())
}

/// What `--api-token` gives or names.
fn read_token(given: &str) -> Result<String, String> {
    let token = match given.strip_prefix('@') {
        Some(path) => {
            fs::read_to_string(path).map_err(|error| format!("--api-token: {path}: {error}"))?
        }
        None => given.to_owned(),
    };
    let token = token.trim_end().to_owned();
    match !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(token),
        false => Err("--api-token is no token".to_owned()),
    }
}

fn describe(ledger: &Ledger) -> String {
    let mut text = format!("matched {} queued {}", ledger.matched, ledger.queued);
    let mut dropped: Vec<_> = ledger.dropped.iter().collect();
    dropped.sort();
    for (reason, count) in dropped {
        text += &format!(" dropped({reason}) {count}");
    }
    if ledger.absent > 0 {
        text += &format!(" absent {}", ledger.absent);
    }
    text
}
