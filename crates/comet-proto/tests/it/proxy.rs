//! PROXY headers: valid ones, bad ones with the byte at which they are refused, and round trips.

use std::net::{IpAddr, SocketAddr};

use comet_proto::proxy::{HEADER_MAX, Header, ProxyFault, read};
use proptest::collection::vec;
use proptest::prelude::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 9, 0xdc, 0x04, 0x0c, 0x1d];

fn binary(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &length.to_be_bytes(), rest].concat()
}

/// A whole version 2 header.
fn whole(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    binary(command, family, u16::try_from(rest.len()).unwrap(), rest)
}

#[test]
fn headers_are_read() {
    /// Checks that `header` has this source, that each byte of it is needed, and that none after it
    /// are used.
    #[track_caller]
    fn check(header: impl AsRef<[u8]>, source: Option<&str>) {
        let header = header.as_ref();
        for end in 0..header.len() {
            assert_eq!(read(&header[..end]), Ok(None), "{end} bytes");
        }
        let source = source.map(|source| source.parse().unwrap());
        let expected = Ok(Some(Header { source, consumed: header.len() }));
        assert_eq!(read(header), expected);
        assert_eq!(read(&[header, b"\r\nwhat the client sends"].concat()), expected);
    }
    let v6 = [&[0x20, 1, 0xd, 0xb8], &[0; 11][..], &[7], &[0; 16], &[0xdc, 4, 0, 1]].concat();

    check("PROXY TCP4 192.0.2.7 198.51.100.9 56324 3101\r\n", Some("192.0.2.7:56324"));
    check("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Some("0.0.0.0:0"));
    check("PROXY TCP6 2001:db8::7 ::1 56324 3101\r\n", Some("[2001:db8::7]:56324"));
    check("PROXY UNKNOWN\r\n", None);
    check("PROXY UNKNOWN what ever this is\r\n", None);
    check(format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16)), None);

    check(whole(0x21, 0x11, V4), Some("192.0.2.7:56324"));
    check(whole(0x21, 0x11, &[V4, b"\x04\0\x03abc"].concat()), Some("192.0.2.7:56324"));
    check(whole(0x21, 0x11, &[V4, &[0; 1012]].concat()), Some("192.0.2.7:56324"));
    check(whole(0x21, 0x21, &v6), Some("[2001:db8::7]:56324"));
    check(whole(0x20, 0x00, b""), None);
    check(whole(0x20, 0x11, V4), None);
    check(whole(0x20, 0x21, b"shorter than addresses"), None);
    check(whole(0x21, 0x00, b"extensions"), None);
    check(whole(0x21, 0x12, V4), None);
    check(whole(0x21, 0x31, &[b'/'; 216]), None);
}

#[test]
fn bad_headers_are_refused() {
    /// Checks that `bytes` are refused as soon as the first `shown_by` of them have arrived.
    #[track_caller]
    fn check(bytes: impl AsRef<[u8]>, shown_by: usize, fault: ProxyFault) {
        let bytes = bytes.as_ref();
        for end in 0..=bytes.len() {
            let expected = if end < shown_by { Ok(None) } else { Err(fault) };
            assert_eq!(read(&bytes[..end]), expected, "{end} bytes");
        }
    }
    let line = |line: &str| check(format!("{line}\r\n"), line.len() + 2, ProxyFault::Line);

    check(b"\0\0\0\x12\0\x10", 1, ProxyFault::Start);
    check(b"GET /sub HTTP/1.1\r\n", 1, ProxyFault::Start);
    check(b"\x16\x03\x01", 1, ProxyFault::Start);
    check(b"PROXY\tTCP4", 6, ProxyFault::Start);
    check(b"PROXX", 5, ProxyFault::Start);
    check(b"proxy TCP4", 1, ProxyFault::Start);
    check(b"\r\n\r\n\0\r\nQUIT\r", 12, ProxyFault::Start);

    check([b"PROXY TCP4 ", &[b'1'; 200][..]].concat(), 107, ProxyFault::LineTooLong);
    check(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)), 107, ProxyFault::LineTooLong);
    line("PROXY ");
    line("PROXY UDP4 192.0.2.7 198.51.100.9 1 2");
    line("PROXY unknown");
    line("PROXY  TCP4 192.0.2.7 198.51.100.9 1 2");
    line("PROXY TCP4");
    line("PROXY TCP4 192.0.2.7 198.51.100.9 1");
    line("PROXY TCP4 192.0.2.7 198.51.100.9 1 2 3");
    line("PROXY TCP4 192.0.2.7 198.51.100.9 1 2 ");
    line("PROXY TCP4 192.0.2.7  198.51.100.9 1 2");
    line("PROXY TCP4 192.0.2.256 198.51.100.9 1 2");
    line("PROXY TCP4 192.0.02.7 198.51.100.9 1 2");
    line("PROXY TCP4 localhost 198.51.100.9 1 2");
    line("PROXY TCP4 192.0.2.7 ::1 1 2");
    line("PROXY TCP6 192.0.2.7 ::1 1 2");
    line("PROXY TCP4 192.0.2.7 198.51.100.9 65536 2");
    line("PROXY TCP4 192.0.2.7 198.51.100.9 1 02");
    line("PROXY TCP4 192.0.2.7 198.51.100.9 00 2");
    line("PROXY TCP4 192.0.2.7 198.51.100.9 +1 2");
    line("PROXY TCP4 192.0.2.7 198.51.100.9 -1 2");
    line("PROXY TCP4 192.0.2.7 198.51.100.9  2");
    check(b"PROXY TCP4 \xff\r\n", 14, ProxyFault::Line);

    check(whole(0x11, 0x11, V4), 16, ProxyFault::Version { version: 1 });
    check(whole(0x31, 0x11, V4), 16, ProxyFault::Version { version: 3 });
    check(whole(0x22, 0x11, V4), 16, ProxyFault::Command { command: 2 });
    check(whole(0x2f, 0x11, V4), 16, ProxyFault::Command { command: 15 });
    check(whole(0x21, 0x41, V4), 16, ProxyFault::Family { family: 0x41 });
    check(whole(0x21, 0x13, V4), 16, ProxyFault::Family { family: 0x13 });
    check(whole(0x20, 0xff, V4), 16, ProxyFault::Family { family: 0xff });
    check(whole(0x21, 0x11, &V4[..11]), 16, ProxyFault::Length { length: 11 });
    check(whole(0x21, 0x21, &[0; 35]), 16, ProxyFault::Length { length: 35 });
    check(binary(0x21, 0x11, 1025, V4), 16, ProxyFault::Length { length: 1025 });
    check(binary(0x20, 0x00, 0xffff, b""), 16, ProxyFault::Length { length: 0xffff });
}

#[test]
fn faults_have_sentences() {
    let check = |fault: ProxyFault, text: &str| assert_eq!(fault.to_string(), text);
    check(ProxyFault::Start, "the connection does not begin with a PROXY header");
    check(ProxyFault::LineTooLong, "the PROXY line has no end within 107 bytes");
    check(ProxyFault::Line, "the PROXY line is malformed");
    check(ProxyFault::Version { version: 3 }, "PROXY version 3 in a binary header");
    check(ProxyFault::Command { command: 2 }, "PROXY command 2 is unknown");
    check(ProxyFault::Family { family: 0x41 }, "PROXY address family 0x41 is unknown");
    check(
        ProxyFault::Length { length: 11 },
        "a PROXY header of this family does not have 11 bytes",
    );
}

/// Source and destination of one family.
fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into()));
    let v6 = any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (a.into(), b.into()));
    prop_oneof![v4, v6]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

proptest! {
    #[test]
    fn written_headers_are_read_back(
        (source, destination) in addresses(),
        ports in any::<(u16, u16)>(),
        extensions in vec(any::<u8>(), 0..900),
        tail in vec(any::<u8>(), 0..40),
    ) {
        let (name, family) = if source.is_ipv4() { ("TCP4", 0x11) } else { ("TCP6", 0x21) };
        let text = format!("PROXY {name} {source} {destination} {} {}\r\n", ports.0, ports.1);
        let rest = [
            octets(source),
            octets(destination),
            ports.0.to_be_bytes().to_vec(),
            ports.1.to_be_bytes().to_vec(),
            extensions,
        ];
        for header in [text.into_bytes(), whole(0x21, family, &rest.concat())] {
            let expected =
                Header { source: Some(SocketAddr::new(source, ports.0)), consumed: header.len() };
            prop_assert_eq!(read(&[&header[..], &tail].concat()), Ok(Some(expected)));
            prop_assert_eq!(read(&header[..header.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn no_header_beyond_the_bound_is_awaited(start in 0..2_usize, mut bytes in vec(any::<u8>(), HEADER_MAX)) {
        let start = [SIGNATURE, b"PROXY "][start];
        bytes[..start.len()].copy_from_slice(start);
        prop_assert!(read(&bytes) != Ok(None));
    }
}
