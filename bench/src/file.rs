//! Scenarios as TOML files: `scenario = "fanout"`, and the flags of that subcommand as keys.
//!
//! A file is read as the command line that it stands for, so that every flag is a key, with the same default
//! and the same limits, and there is nothing to keep equal.

use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, CommandFactory, Parser};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::Result;
use crate::args::{Cli, Command};

/// The key that names the subcommand.
const SCENARIO: &str = "scenario";

/// Reads the command that `file` stands for; `flags` come after those in it, and so take their place.
///
/// # Errors
///
/// It cannot be read, or there is a mistake in it: the error says where.
pub(crate) fn read(file: &Path, flags: Vec<OsString>) -> Result<Command> {
    let text = fs::read_to_string(file);
    let text = text.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    parse(&text, flags).map_err(|mistake| {
        let place = mistake.place.map(|at| format!(":{}", line_of(&text, at.start)));
        format!("{}{}: {}", file.display(), place.unwrap_or_default(), mistake.words).into()
    })
}

/// What is wrong, and where in the text.
#[derive(Debug)]
struct Mistake {
    place: Option<Range<usize>>,
    words: String,
}

impl Mistake {
    fn new(place: Option<Range<usize>>, words: impl Into<String>) -> Self {
        Self { place, words: words.into() }
    }
}

fn parse(text: &str, flags: Vec<OsString>) -> Result<Command, Mistake> {
    let table = DeTable::parse(text);
    let table = table.map_err(|error| Mistake::new(error.span(), error.message()))?;
    let table = table.get_ref();
    let scenario = table.get(SCENARIO).ok_or_else(|| {
        Mistake::new(None, format!("no scenario: `{SCENARIO} = \"fanout\"` has to be in it"))
    })?;
    let DeValue::String(name) = scenario.get_ref() else {
        return Err(Mistake::new(Some(scenario.span()), "the scenario is a name in quotes"));
    };
    let definition = Cli::command();
    let known = definition.get_subcommands().find(|command| {
        // Only a scenario has a result, and so a file for it.
        command.get_name() == name
            && command.get_arguments().any(|is| is.get_long() == Some("json"))
    });
    let known = known.ok_or_else(|| {
        Mistake::new(Some(scenario.span()), format!("no scenario is called {name}"))
    })?;
    let mut line: Vec<OsString> = vec!["comet-bench".into(), name.as_ref().into()];
    let mut places = Vec::new();
    for (key, value) in table.iter().filter(|(key, _)| key.get_ref() != SCENARIO) {
        let flag = known.get_arguments().find(|is| is.get_long() == Some(key.get_ref()));
        let Some(flag) = flag else {
            let words = format!("{name} has no key `{}`", key.get_ref());
            return Err(Mistake::new(Some(key.span()), words));
        };
        let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
        append(&mut line, key.get_ref(), value, is_switch)?;
        places.push((format!("--{}", key.get_ref()), value.span()));
    }
    line.extend(flags);
    let cli = Cli::try_parse_from(line).map_err(|error| {
        let argument = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(argument)) => argument.clone(),
            _ => String::new(),
        };
        let flag = argument.split(' ').next().unwrap_or_default();
        let place = places.into_iter().find(|(name, _)| name == flag).map(|(_, place)| place);
        Mistake::new(place, error.to_string())
    })?;
    Ok(cli.command)
}

/// Adds a key as the flag that it stands for; a list is a flag that is repeated.
fn append(
    line: &mut Vec<OsString>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    is_switch: bool,
) -> Result<(), Mistake> {
    match value.get_ref() {
        DeValue::Array(values) => {
            for value in values {
                append(line, key, value, is_switch)?;
            }
        }
        DeValue::Boolean(is_on) if is_switch => {
            if *is_on {
                line.push(format!("--{key}").into());
            }
        }
        DeValue::Boolean(_) => {
            return Err(Mistake::new(Some(value.span()), "no switch to be on or off"));
        }
        _ if is_switch => return Err(Mistake::new(Some(value.span()), "it is true or false")),
        // With `=`, so that a text may begin as a flag does.
        _ => line.push(format!("--{key}={}", as_text(value)?).into()),
    }
    Ok(())
}

fn as_text(value: &Spanned<DeValue<'_>>) -> Result<String, Mistake> {
    Ok(match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Table(table) => {
            let fields = table.iter().map(|(key, value)| {
                let value = match value.get_ref() {
                    DeValue::String(text) => toml::Value::String(text.to_string()).to_string(),
                    _ => as_text(value)?,
                };
                Ok(format!("{} = {value}", key.get_ref()))
            });
            format!("{{ {} }}", fields.collect::<Result<Vec<_>, Mistake>>()?.join(", "))
        }
        _ => return Err(Mistake::new(Some(value.span()), "no flag takes such a value")),
    })
}

/// The line of a byte of `text`, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file and a command line become, to compare.
    fn debug(command: &Command) -> String {
        format!("{command:?}")
    }

    fn check_mistake(text: &str, line: Option<usize>, words: &str) {
        let mistake = parse(text, Vec::new()).unwrap_err();
        assert_eq!(mistake.place.map(|at| line_of(text, at.start)), line, "{text:?}");
        assert!(mistake.words.contains(words), "{text:?}: {}", mistake.words);
    }

    #[test]
    fn a_file_is_the_command_line_it_stands_for() {
        let check = |text: &str, flags: &[&str], line: &[&str]| {
            let read = parse(text, flags.iter().map(OsString::from).collect()).unwrap();
            let line = Cli::try_parse_from([&["comet-bench"], line].concat()).unwrap();
            assert_eq!(debug(&read), debug(&line.command));
        };
        check("scenario = \"idle\"", &[], &["idle"]);
        check(
            "scenario = \"fanout\"\nconnections = 15_000\nrate = 0.5\nws-share = 0.25\ntls = true\n\
             server-set = [\"tcp.sndbuf=1024\", \"log.level='off'\"]\n",
            &[],
            &[
                "fanout",
                "-n",
                "15000",
                "--rate",
                "0.5",
                "--ws-share",
                "0.25",
                "--tls",
                "--server-set",
                "tcp.sndbuf=1024",
                "--server-set",
                "log.level='off'",
            ],
        );
        check(
            "scenario = \"fanout\"\nrate = 5\ntls = false",
            &["--rate", "7"],
            &["fanout", "--rate", "7"],
        );
        check(
            "scenario = \"day\"\n[[phase]]\nname = \"a \\\"b\\\"\"\nroom-rate = 5\n[[phase]]\nname = 'c'\n",
            &[],
            &[
                "day",
                "--phase",
                r#"{ name = 'a "b"', room-rate = 5 }"#,
                "--phase",
                "{ name = 'c' }",
            ],
        );
    }

    #[test]
    fn mistakes_have_a_place() {
        check_mistake("rate = 5", None, "no scenario");
        check_mistake("\nscenario = 5", Some(2), "a name in quotes");
        check_mistake("\n\nscenario = \"yardstick\"", Some(3), "no scenario is called yardstick");
        check_mistake("scenario = \"idle\"\nrate = 5", Some(2), "idle has no key `rate`");
        check_mistake("scenario = \"idle\"\n\nheartbeat = \"x\"", Some(3), "invalid");
        check_mistake("scenario = \"idle\"\nrounds = 0", Some(2), "0");
        check_mistake("scenario = \"idle\"\nrounds = true", Some(2), "no switch");
        check_mistake("scenario = \"idle\"\ntls = 1", Some(2), "true or false");
        check_mistake(
            "scenario = \"day\"\nphase = [{ nam = \"x\" }]",
            Some(2),
            "unknown field `nam`",
        );
        check_mistake("scenario = \"idle\"\n=", Some(2), "");
    }

    #[test]
    fn every_file_there_is_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut files = 0;
        for entry in fs::read_dir(folder).unwrap() {
            read(&entry.unwrap().path(), Vec::new()).unwrap();
            files += 1;
        }
        assert!(files > 0);
    }
}
