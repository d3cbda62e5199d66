//! RUST_LOG: the level of each module, where it is not `log.level`.
//!
//! The grammar is env_logger's, without its filter for the text of a line. Unknown text is an error here. env_logger
//! would take `RUST_LOG=inof` for a module name, and log nothing else.

use std::env;

use comet_config::LogLevel;
use env_logger::DEFAULT_FILTER_ENV;
use log::LevelFilter;

/// The directives of RUST_LOG for env_logger; `None` if it is unset or empty. Modules that it does not name
/// log at `level`.
///
/// # Errors
/// All mistakes in it, a line each.
pub(crate) fn from_environment(level: LogLevel) -> Result<Option<String>, String> {
    match env::var_os(DEFAULT_FILTER_ENV) {
        None => Ok(None),
        Some(text) => match text.to_str() {
            Some(text) => parse(text, level),
            None => Err(format!("{DEFAULT_FILTER_ENV}: {text:?} is not UTF-8")),
        },
    }
}

fn parse(text: &str, level: LogLevel) -> Result<Option<String>, String> {
    let (mut directives, mut mistakes) = (vec![level.label().to_owned()], Vec::new());
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match directive(item) {
            // If several levels are for all modules, env_logger takes the last.
            Some(directive) => directives.push(directive),
            None => mistakes.push(format!(
                "{DEFAULT_FILTER_ENV}: {item:?} is neither LEVEL nor MODULE=LEVEL, as in \
                 \"warn,comet_net=debug\"; levels are off, error, warn, info, debug and trace"
            )),
        }
    }
    match (mistakes.is_empty(), directives.len()) {
        (false, _) => Err(mistakes.join("\n")),
        (true, 1) => Ok(None),
        (true, _) => Ok(Some(directives.join(","))),
    }
}

/// `item` without spaces; `None` if it is not a directive.
fn directive(item: &str) -> Option<String> {
    let is_level = |text: &str| text.parse::<LevelFilter>().is_ok();
    match item.split_once('=').map(|(module, level)| (module.trim(), level.trim())) {
        Some((module, level)) => {
            (is_module(module) && is_level(level)).then(|| format!("{module}={level}"))
        }
        // A module without a level logs everything. Only names of this project are accepted as such a module.
        None => {
            let is_ours = is_module(item) && (item == "comet" || item.starts_with("comet_"));
            (is_level(item) || is_ours).then(|| item.to_owned())
        }
    }
}

/// Whether `text` has the form of `name::name`.
fn is_module(text: &str) -> bool {
    text.split("::")
        .all(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_or_refused() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse(text, LogLevel::Info).unwrap().as_deref(), expected, "{text:?}");
        };
        for empty in ["", " ", ",", " , ,"] {
            check(empty, None);
        }
        check("warn", Some("info,warn"));
        check("OFF", Some("info,OFF"));
        check("comet_net=debug,warn", Some("info,comet_net=debug,warn"));
        check(" h2 = debug ,", Some("info,h2=debug"));
        check("comet_net::driver", Some("info,comet_net::driver"));
        for mistake in [
            "inof",
            "3",
            "info=",
            "=info",
            "=",
            "comet=loud",
            "comet=info=debug",
            "comet net=info",
            "comet::=info",
            "comets",
            "/x",
            "info/x",
            "info;warn",
            "\u{1b}[2J",
        ] {
            let said = parse(mistake, LogLevel::Info).unwrap_err();
            assert!(said.starts_with(&format!("RUST_LOG: {mistake:?} is neither ")), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        assert_eq!(parse("inof,warn,comet=3", LogLevel::Info).unwrap_err().lines().count(), 2);
    }
}
