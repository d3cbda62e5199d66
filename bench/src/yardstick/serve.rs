//! The process of a yardstick: accepts its connections, then sends what it is handed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use super::plain::PlainLoop;
use super::ring::RingLoop;
use super::{MESSAGE_MAX, Mode};
use crate::Result;
use crate::message::{HEADER_LEN, OP_AUTH_REPLY, append_header};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// The longest token that is read.
const TOKEN_MAX: usize = 4096;

/// Runs until the standard input ends. The port is the first line of the standard output.
///
/// # Errors
///
/// A socket could not be made or a connection does not speak the protocol.
pub(crate) fn serve(mode: Mode, connections: usize) -> Result<()> {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&listener, BACKLOG)?;
    let listener = TcpListener::from(listener);
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", listener.local_addr()?.port())?;
    stdout.flush()?;
    match mode {
        Mode::Echo => echo(&listener),
        Mode::Ring => {
            let mut ring = RingLoop::new(accept_all(&listener, connections)?)?;
            each_message(|message| ring.round(message))
        }
        Mode::Send => {
            let mut plain = PlainLoop::new(accept_all(&listener, connections)?);
            each_message(|message| plain.round(&message))
        }
    }
}

fn accept_all(listener: &TcpListener, connections: usize) -> Result<Vec<TcpStream>> {
    let mut sockets = Vec::with_capacity(connections);
    while sockets.len() < connections {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        answer_authentication(&mut socket)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn answer_authentication(socket: &mut TcpStream) -> Result<()> {
    let mut header = [0; HEADER_LEN];
    socket.read_exact(&mut header)?;
    let [l0, l1, l2, l3, .., s0, s1, s2, s3] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let token = length.checked_sub(HEADER_LEN).filter(|&token| token <= TOKEN_MAX);
    let token = token.ok_or("a client's first frame has an impossible length")?;
    socket.read_exact(&mut [0; TOKEN_MAX][..token])?;
    let mut reply = Vec::with_capacity(HEADER_LEN);
    append_header(OP_AUTH_REPLY, u32::from_be_bytes([s0, s1, s2, s3]), 0, &mut reply);
    socket.write_all(&reply)?;
    Ok(())
}

fn each_message(mut round: impl FnMut(Vec<u8>) -> io::Result<()>) -> Result<()> {
    let mut stdin = io::stdin().lock();
    let mut length = [0; 4];
    loop {
        match stdin.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        }
        let length = u32::from_le_bytes(length);
        if length > MESSAGE_MAX {
            return Err(format!("a message of {length} bytes is beyond {MESSAGE_MAX}").into());
        }
        let mut message = vec![0; length as usize];
        stdin.read_exact(&mut message)?;
        round(message)?;
    }
}

fn echo(listener: &TcpListener) -> Result<()> {
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let mut buffer = [0; 64 << 10];
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(()),
            read => socket.write_all(&buffer[..read])?,
        }
    }
}
