//! The wire protocol written from its description, without this project's codec, for comparison.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

/// packLen, headerLen 16, version 1, operation, sequence, body; big-endian.
pub(crate) fn frame(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let pack_len = u32::try_from(16 + body.len()).unwrap();
    [
        &pack_len.to_be_bytes()[..],
        &[0, 16, 0, 1],
        &operation.to_be_bytes(),
        &sequence.to_be_bytes(),
        body,
    ]
    .concat()
}

/// The same in protocol 2.
pub(crate) fn frame_2(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = frame(operation, sequence, body);
    bytes[7] = 2;
    bytes
}

/// A server's WebSocket frame: no mask. `first` is the FIN bit and the opcode.
pub(crate) fn websocket(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(u8::try_from(len).unwrap()),
        len @ 126..65_536 => {
            bytes.push(126);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// One frame a client sent over TCP, or TLS over it.
pub(crate) fn read_frame(stream: &mut impl Read) -> (i32, i32, Vec<u8>) {
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    let word = |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    // The first auth frame asks for protocol 2.
    let version = if (word(8), word(12)) == (7, 1) { 2 } else { 1 };
    assert_eq!(header[4..8], [0, 16, 0, version], "headerLen and version");
    let mut body = vec![0; usize::try_from(word(0)).unwrap() - 16];
    stream.read_exact(&mut body).unwrap();
    (word(8), word(12), body)
}

/// Reads the auth frame, accepts it and returns the token.
pub(crate) fn authenticate(stream: &mut (impl Read + Write)) -> Vec<u8> {
    let (operation, sequence, token) = read_frame(stream);
    assert_eq!(operation, 7);
    stream.write_all(&frame(8, sequence, b"")).unwrap();
    token
}

/// Calls `serve` on a thread for each of `connections` connections to the returned address. Joining
/// the handle reports a failed assertion of the server.
pub(crate) fn serve(
    connections: usize,
    mut serve: impl FnMut(usize, TcpStream) + Send + 'static,
) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        for connection in 0..connections {
            serve(connection, listener.accept().unwrap().0);
        }
    });
    (address, server)
}
