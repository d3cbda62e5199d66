//! Lists of text, such as addresses and files. Each element may have a mistake of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use comet_listen::{Address, BadAddress, unix_path};
use comet_proto::websocket::OriginPattern;
use toml::{Spanned, Value};

use super::texts::{is_name, path, token};
use super::{Check, Facts, Kind};
use crate::network::Network;
use crate::secrets::HIDDEN;

/// The kind of the elements of a list. `T` is the type of a checked element.
pub(crate) trait Elements<T> {
    /// The form of the list, in a word or two.
    const FORM: &'static str;

    /// Checks one element; `earlier` has the valid ones before it.
    ///
    /// # Errors
    /// A sentence that follows the name of the key.
    fn read(&self, text: &str, earlier: &[T]) -> Result<T, String>;

    /// `element` as text that reads back the same.
    fn write(&self, element: &T) -> String;

    /// `element` for logs and terminals, where the list is a secret.
    fn show_secret(&self, _element: &T) -> String {
        HIDDEN.to_owned()
    }
}

/// A list of `E`.
pub(crate) struct List<E>(E);

pub(crate) fn list<E>(elements: E) -> List<E> {
    List(elements)
}

impl<T, E: Elements<T>> Kind<Vec<T>> for List<E> {
    type Raw = Vec<Spanned<String>>;

    fn facts(&self) -> Facts {
        Facts::new(E::FORM)
    }

    fn check(&self, raw: Self::Raw, check: &mut Check<'_>) -> Option<Vec<T>> {
        Some(good(raw, check, |text, earlier| self.0.read(text, earlier)))
    }

    fn write(&self, value: &Vec<T>) -> Value {
        value.iter().map(|element| self.0.write(element)).collect::<Vec<_>>().into()
    }

    fn show_secret(&self, value: &Vec<T>) -> Value {
        value.iter().map(|element| self.0.show_secret(element)).collect::<Vec<_>>().into()
    }
}

/// The elements that `read` accepts; the others are reported.
fn good<T>(
    raw: Vec<Spanned<String>>,
    check: &mut Check<'_>,
    read: impl Fn(&str, &[T]) -> Result<T, String>,
) -> Vec<T> {
    let mut values = Vec::with_capacity(raw.len());
    for (index, text) in raw.into_iter().enumerate() {
        match read(text.get_ref(), &values) {
            Ok(value) => values.push(value),
            Err(what) => check.refuse_element(index, text.span(), what),
        }
    }
    values
}

/// Addresses to listen on. Names are resolved here.
pub(crate) struct Addresses;

impl Kind<Vec<SocketAddr>> for Addresses {
    type Raw = Vec<Spanned<String>>;

    fn facts(&self) -> Facts {
        Facts::new("list of addresses")
    }

    fn check(&self, raw: Self::Raw, check: &mut Check<'_>) -> Option<Vec<SocketAddr>> {
        let is_elsewhere = check.is_elsewhere;
        Some(good(raw, check, |text, _| resolve(text, is_elsewhere)))
    }

    fn write(&self, value: &Vec<SocketAddr>) -> Value {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().into()
    }

    fn listeners(&self, value: &Vec<SocketAddr>) -> Vec<Address> {
        value.iter().map(|address| Address::Plain(*address)).collect()
    }
}

/// Addresses for callers: as [`Addresses`], but also with TLS, and Unix sockets.
pub(crate) struct ApiAddresses;

impl Kind<Vec<Address>> for ApiAddresses {
    type Raw = Vec<Spanned<String>>;

    fn facts(&self) -> Facts {
        Facts::new("list of addresses")
    }

    fn check(&self, raw: Self::Raw, check: &mut Check<'_>) -> Option<Vec<Address>> {
        let is_elsewhere = check.is_elsewhere;
        Some(good(raw, check, |text, _| api_address(text, is_elsewhere)))
    }

    fn write(&self, value: &Vec<Address>) -> Value {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().into()
    }

    fn listeners(&self, value: &Vec<Address>) -> Vec<Address> {
        value.clone()
    }
}

fn api_address(text: &str, is_elsewhere: bool) -> Result<Address, String> {
    let bad = |error: BadAddress| format!("{text:?} {error}");
    if text.starts_with("unix:") {
        return text.parse().map_err(bad);
    }
    let (place, is_tls) = match text.strip_prefix("tls:") {
        Some(place) => (place, true),
        None => (text, false),
    };
    if place.parse::<SocketAddr>().is_err() && port_after_name(place).is_none() {
        return Err(bad(BadAddress::Form));
    }
    let address = resolve(place, is_elsewhere)?;
    Ok(if is_tls { Address::Tls(address) } else { Address::Plain(address) })
}

/// The address of `HOST:PORT`. If a name has several addresses, the first IPv4 address is used, so that the family does
/// not depend on the order in which the resolver answers. A name that `is_elsewhere` may have no address here; then any
/// address stands for it.
fn resolve(text: &str, is_elsewhere: bool) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let Some(port) = port_after_name(text) else {
        return Err(format!("{text:?} is not an address: use HOST:PORT"));
    };
    if is_elsewhere {
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    let found = text.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let first = |found: &Vec<SocketAddr>| {
        found.iter().find(|address| address.is_ipv4()).or(found.first()).copied()
    };
    match found {
        Ok(addresses) => first(&addresses).ok_or_else(|| format!("{text:?} has no address")),
        Err(fault) => Err(format!("{text:?} has no address: {fault}")),
    }
}

/// The port of `NAME:PORT`, if `text` has that form with a host name.
fn port_after_name(text: &str) -> Option<u16> {
    let (host, port) = text.rsplit_once(':')?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_host = !host.is_empty() && host.bytes().all(is_name);
    port.parse().ok().filter(|_| is_host)
}

/// Addresses to connect to, in the form of [`peer`] and as written: names are resolved for each connection.
pub(crate) struct Peers;

impl Elements<String> for Peers {
    const FORM: &'static str = "list of addresses";

    fn read(&self, text: &str, _: &[String]) -> Result<String, String> {
        peer(text)
    }

    fn write(&self, element: &String) -> String {
        element.clone()
    }
}

/// As [`Peers`], but only `HOST:PORT`, without TLS and Unix sockets.
pub(crate) struct Places;

impl Elements<String> for Places {
    const FORM: &'static str = "list of addresses";

    fn read(&self, text: &str, _: &[String]) -> Result<String, String> {
        host_and_port(text).map(|()| text.to_owned())
    }

    fn write(&self, element: &String) -> String {
        element.clone()
    }
}

/// `HOST:PORT`, `tls:HOST:PORT` or `unix:/PATH`.
pub(super) fn peer(text: &str) -> Result<String, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path)
            .map(|_| text.to_owned())
            .map_err(|error| format!("{text:?} {error}"));
    }
    match host_and_port(text.strip_prefix("tls:").unwrap_or(text)) {
        Ok(()) => Ok(text.to_owned()),
        Err(_) if !text.ends_with(":0") => Err(format!("{text:?} {}", BadAddress::Form)),
        Err(what) => Err(what),
    }
}

pub(super) fn host_and_port(text: &str) -> Result<(), String> {
    let is_address = text.parse::<SocketAddr>().is_ok() || port_after_name(text).is_some();
    if !is_address {
        return Err(format!("{text:?} is not an address: use HOST:PORT"));
    }
    if text.ends_with(":0") {
        return Err(format!("{text:?} names no port: nothing can be reached at 0"));
    }
    Ok(())
}

/// Networks.
pub(crate) struct Networks;

impl Elements<Network> for Networks {
    const FORM: &'static str = "list of networks";

    fn read(&self, text: &str, _: &[Network]) -> Result<Network, String> {
        text.parse()
    }

    fn write(&self, element: &Network) -> String {
        element.to_string()
    }
}

/// Files, each with a name.
pub(crate) struct Files;

impl Elements<PathBuf> for Files {
    const FORM: &'static str = "list of files";

    fn read(&self, text: &str, _: &[PathBuf]) -> Result<PathBuf, String> {
        path(text)
    }

    fn write(&self, element: &PathBuf) -> String {
        element.to_str().expect("read from text").to_owned()
    }
}

/// Origins of pages, in the form of [`OriginPattern`].
pub(crate) struct Origins;

impl Elements<OriginPattern> for Origins {
    const FORM: &'static str = "list of origins";

    fn read(&self, text: &str, _: &[OriginPattern]) -> Result<OriginPattern, String> {
        OriginPattern::parse(text)
            .map_err(|error| format!("{text:?} matches the origin of no browser: {error}"))
    }

    fn write(&self, element: &OriginPattern) -> String {
        element.to_string()
    }
}

/// Names of hosts, in lower case.
pub(crate) struct Hosts;

impl Elements<String> for Hosts {
    const FORM: &'static str = "list of names";

    fn read(&self, text: &str, _: &[String]) -> Result<String, String> {
        match port_after_name(&format!("{text}:1")) {
            Some(_) => Ok(text.to_ascii_lowercase()),
            None => Err(format!("{text:?} is not the name of a host")),
        }
    }

    fn write(&self, element: &String) -> String {
        element.clone()
    }
}

/// Hosts for clients, as names or addresses; IPv6 addresses without brackets.
pub(crate) struct ClientHosts;

impl Elements<String> for ClientHosts {
    const FORM: &'static str = "list of hosts";

    fn read(&self, text: &str, _: &[String]) -> Result<String, String> {
        client_host(text)
    }

    fn write(&self, element: &String) -> String {
        element.clone()
    }
}

/// Also accepts an IPv6 address in brackets.
fn client_host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>().is_ok() || port_after_name(&format!("{text}:1")).is_some() {
        true => Ok(bare.to_owned()),
        false => Err(format!("{text:?} is not a host: use a name or an address, without a port")),
    }
}

/// Tokens of callers.
pub(crate) struct Tokens;

impl Elements<String> for Tokens {
    const FORM: &'static str = "list of tokens";

    fn read(&self, text: &str, _: &[String]) -> Result<String, String> {
        token(text)
    }

    fn write(&self, element: &String) -> String {
        element.clone()
    }
}

/// Server id of a comet, and the address of its `push.grpc`. Ids are unique.
pub(crate) struct Comets;

impl Elements<(String, String)> for Comets {
    const FORM: &'static str = "list of comets";

    fn read(&self, text: &str, earlier: &[(String, String)]) -> Result<(String, String), String> {
        let (id, address) = text
            .split_once('=')
            .filter(|(id, _)| !id.is_empty() && is_name(id))
            .ok_or_else(|| format!("{text:?} is not a comet: write SERVER-ID=HOST:PORT"))?;
        if earlier.iter().any(|(other, _)| other == id) {
            return Err(format!("{id:?} is named twice"));
        }
        Ok((id.to_owned(), peer(address)?))
    }

    fn write(&self, (id, address): &(String, String)) -> String {
        format!("{id}={address}")
    }
}

/// Server id of a comet, the host that its clients connect to, and its weight. Ids are unique.
pub(crate) struct Nodes;

/// The weights of nodes.
pub(crate) const WEIGHTS: RangeInclusive<u32> = 1..=10_000;

impl Elements<(String, String, u32)> for Nodes {
    const FORM: &'static str = "list of nodes";

    fn read(
        &self,
        text: &str,
        earlier: &[(String, String, u32)],
    ) -> Result<(String, String, u32), String> {
        let (id, rest) = text
            .split_once('=')
            .filter(|(id, _)| !id.is_empty() && is_name(id))
            .ok_or_else(|| format!("{text:?} is not a node: write SERVER-ID=HOST*WEIGHT"))?;
        if earlier.iter().any(|(other, ..)| other == id) {
            return Err(format!("{id:?} is named twice"));
        }
        let (host, weight) = match rest.split_once('*') {
            None => (rest, 1),
            Some((host, weight)) => {
                let weight = weight.parse().ok().filter(|weight| WEIGHTS.contains(weight));
                let [least, most] = [WEIGHTS.start(), WEIGHTS.end()];
                (host, weight.ok_or_else(|| format!("{text:?}: a weight is {least} to {most}"))?)
            }
        };
        Ok((id.to_owned(), client_host(host)?, weight))
    }

    fn write(&self, (id, host, weight): &(String, String, u32)) -> String {
        format!("{id}={host}*{weight}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_resolved() {
        let check = |text: &str, expected: &str| {
            let resolved = resolve(text, false).map(|address| address.to_string());
            assert_eq!(resolved, Ok(expected.to_owned()));
        };
        check("0.0.0.0:8080", "0.0.0.0:8080");
        check("[::]:0", "[::]:0");
        check("[::1]:65535", "[::1]:65535");
        check("localhost:8083", "127.0.0.1:8083");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "8080",
            ":8080",
            "localhost",
            "0.0.0.0:80800",
            "localhost:x",
            "::1:80",
            "a b:80",
            "[::1",
        ] {
            let expected = format!("{text:?} is not an address: use HOST:PORT");
            assert_eq!(resolve(text, false), Err(expected.clone()));
            assert_eq!(resolve(text, true), Err(expected));
        }
    }
}
