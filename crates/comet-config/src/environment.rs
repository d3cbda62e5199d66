//! Environment variables as keys: `COMET_TCP_BIND` sets `tcp.bind`.

use std::ffi::OsStr;

use crate::declare::Key;
use crate::keys::SECTIONS;

/// The prefix of all variables of comet.
const PREFIX: &str = "COMET_";
/// Most edits between a variable and that of a key for which it counts as a typing error.
const SLIP: usize = 2;

/// The meaning of a variable for the configuration.
pub(crate) enum Variable {
    /// It sets this key.
    Sets(&'static Key),
    /// It looks like the variable of a key; with the closest one.
    Mistaken(String),
    /// It is for another program.
    Other,
}

/// The meaning of the variable `name` with this value.
pub(crate) fn variable(name: &str, value: &OsStr) -> Variable {
    let Some(rest) = name.strip_prefix(PREFIX) else { return Variable::Other };
    let keys = || SECTIONS.iter().flat_map(|section| section.keys);
    if let Some(key) = keys().find(|key| key.variable() == name) {
        return Variable::Sets(key);
    }
    if is_service_link(rest, &value.to_string_lossy()) {
        return Variable::Other;
    }
    let distance = |variable: &String| strsim::damerau_levenshtein(name, variable);
    let closest = keys().map(Key::variable).min_by_key(distance).expect("there are keys");
    let mut sections = SECTIONS.iter().map(|section| format!("{}_", section.name.to_uppercase()));
    if distance(&closest) <= SLIP || sections.any(|section| rest.starts_with(&section)) {
        return Variable::Mistaken(closest);
    }
    Variable::Other
}

/// Whether this is a variable that Kubernetes sets in every pod because of a service named `comet` or `comet-...`:
/// `COMET_LOGIC_SERVICE_HOST`, `COMET_PORT_8083_TCP_ADDR`
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
fn is_service_link(rest: &str, value: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let is_port = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    words.ends_with(&["SERVICE", "HOST"])
        || words.windows(2).any(|pair| pair == ["SERVICE", "PORT"])
        || (words.ends_with(&["PORT"]) && value.contains("://"))
        || words.windows(2).any(|pair| pair[0] == "PORT" && is_port(&pair[1]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        let keys: Vec<&Key> = SECTIONS.iter().flat_map(|section| section.keys).collect();
        let variables: BTreeSet<String> = keys.iter().map(|key| key.variable()).collect();
        assert_eq!(variables.len(), keys.len());
        for key in keys {
            let name = key.variable();
            assert!(!is_service_link(&name[PREFIX.len()..], "tcp://10.0.0.1:80"), "{name}");
            assert!(
                matches!(variable(&name, OsStr::new("")), Variable::Sets(found) if found.path == key.path)
            );
        }
    }

    #[test]
    fn variables_that_look_like_keys_are_mistakes() {
        let check = |name: &str, expected: &str| {
            let Variable::Mistaken(closest) = variable(name, OsStr::new("8080")) else {
                panic!("{name}");
            };
            assert_eq!(closest, expected, "{name}");
        };
        check("COMET_TPC_BIND", "COMET_TCP_BIND");
        check("COMET_TCP_BINDS", "COMET_TCP_BIND");
        check("COMET_WHITELIST_FILE", "COMET_WHITE_LIST_FILE");
        check("COMET_LOG_FILENAME", "COMET_LOG_FILE");
        check("COMET_TCP_PORT", "COMET_TCP_BIND");
        check("COMET_LOGIC_SERVER_REDISES", "COMET_LOGIC_SERVER_REDIS");
    }

    #[test]
    fn other_variables_are_left_alone() {
        for name in [
            "PATH",
            "TCP_BIND",
            "comet_tcp_bind",
            "COMET_",
            "COMET_CONFIG",
            "COMET_COMMIT",
            "COMET_HOME",
            "COMET_SERVICE_HOST",
            "COMET_SERVICE_PORT",
            "COMET_SERVICE_PORT_GRPC",
            "COMET_PORT",
            "COMET_PORT_8083_TCP",
            "COMET_PORT_8083_TCP_ADDR",
            "COMET_LOGIC_SERVICE_HOST",
            "COMET_LOGIC_SERVICE_PORT_HTTP",
            "COMET_LOGIC_PORT",
            "COMET_LOGIC_PORT_7170_TCP_PROTO",
        ] {
            let value = OsStr::new("tcp://10.0.0.1:8083");
            assert!(matches!(variable(name, value), Variable::Other), "{name}");
        }
    }
}
