//! Configurations as people write them, and the mistakes that are reported.

mod corpus;
mod fit;
mod layers;
mod listeners;
mod mistakes;
mod pages;
mod values;

use std::path::Path;

use comet_config::{Config, Machine, Source, load};

pub(crate) const SHIPPED: &str = include_str!("../../../../comet.toml");

pub(crate) fn machine(cpus: usize) -> Machine {
    Machine { cpus: (0..cpus).collect(), host_name: "edge-1".to_owned() }
}

pub(crate) fn read(text: &str, sets: &[&str]) -> Result<Config, String> {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let file = Some((Path::new("comet.toml"), text));
    let source = Source { file, sets: &sets, ..Source::default() };
    load(&source, &machine(2)).map_err(|mistakes| mistakes.to_string())
}

pub(crate) fn good(text: &str, sets: &[&str]) -> Config {
    read(text, sets).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// `text` and `sets` are refused with exactly these lines.
#[track_caller]
pub(crate) fn check_mistakes(text: &str, sets: &[&str], lines: &[&str]) {
    let mistakes = read(text, sets).expect_err("a mistake");
    assert_eq!(mistakes.lines().collect::<Vec<_>>(), lines);
}
