//! `comet listen`: a client, for a first try and for operators.

use std::error::Error;
use std::fs;

use comet_client::{
    Error as ClientError, Event, Joined, Options, Position, SessionError, TlsError, TlsOptions,
};

use crate::args::Listen;
use crate::inputs::token;
use crate::output::{Reader, note, print};

/// Connects as a client and prints the messages that arrive, until standard output is closed. Reconnects automatically.
///
/// # Errors
/// If standard output fails for another reason, if no address is known, if the token cannot be read, or if TLS
/// fails before the first connection, or later in a way that waiting does not mend.
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
            Event::Room { room, outcome: Ok(joined) } => {
                note(format_args!("{room}: joined{}", place_of(&joined)));
            }
            Event::Room { room, outcome: Err(refusal) } => {
                note(format_args!("{room}: not joined: {refusal}"));
            }
            Event::Left { room } => note(format_args!("{room}: left by order of the server")),
            Event::Gap(gap) => note(format_args!(
                "{}: {} to {} are missing: {:?}",
                gap.room, gap.first, gap.last, gap.state
            )),
            Event::Disconnected { reason: ClientError::Tls(error), .. }
                if !has_connected || is_lasting(&error) =>
            {
                return Err(format!("{address}: {error}{}", advice(&error)).into());
            }
            Event::Disconnected { reason, retry_in: None } => {
                return Err(format!("{address}: {reason}").into());
            }
            Event::Disconnected { reason, retry_in: Some(delay) } => {
                let doubt = if has_connected { "" } else { doubt(listen, &reason) };
                let delay = delay.as_secs_f32();
                note(format_args!("disconnected: {reason}{doubt}; again in {delay:.1} s"));
            }
        }
    }
    Ok(())
}

/// The position in a room's history, as `comet ctl history` shows it, and what was missed; the end of a sentence.
fn place_of(joined: &Joined) -> String {
    let position = joined.position.map_or(String::new(), |Position { epoch, offset }| {
        format!(" at epoch {epoch:016x} offset {offset}")
    });
    match joined.recovered {
        Some(missed) => format!("{position}; {missed} missed pushes follow"),
        None => position,
    }
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

/// What may be wrong with the arguments if the first connection ends like this; part of a sentence.
fn doubt(listen: &Listen, reason: &ClientError) -> &'static str {
    match reason {
        // A TCP listener without TLS answers a TLS handshake only by closing the connection.
        ClientError::Ended if listen.tls => " (perhaps it speaks no TLS here)",
        ClientError::Ended if listen.ws => " (perhaps it speaks no WebSocket here)",
        ClientError::Session(SessionError::Frame(_)) if !listen.ws => {
            " (perhaps it speaks WebSocket here: see --ws)"
        }
        _ => "",
    }
}

/// Whether the server's certificate is at fault. Any other failure may pass: a proxy may answer in plain text while it restarts.
fn is_lasting(error: &TlsError) -> bool {
    matches!(error, TlsError::Untrusted | TlsError::OtherName(_) | TlsError::CaCertificate)
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
