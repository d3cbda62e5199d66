//! `comet.toml` and the tables of `docs/CONFIG.md` are made from the declarations of the keys. These tests
//! fail if a committed file differs; `UPDATE_DOCS=1 cargo test -p comet-config` writes them anew.

use std::path::Path;
use std::{env, fs};

use comet_config::{Key, SECTIONS, Section, TakesEffect, Word};

/// Columns of a line.
const WIDTH: usize = 100;

/// Fails if the file `name` differs from the result of `make`; with `UPDATE_DOCS` rewrites it.
#[track_caller]
fn check(name: &str, make: impl FnOnce(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    let committed = fs::read_to_string(&path).unwrap();
    let made = make(&committed);
    if env::var_os("UPDATE_DOCS").is_some() {
        return fs::write(&path, made).unwrap();
    }
    for (number, (committed, made)) in (1..).zip(committed.lines().zip(made.lines())) {
        let advice = "UPDATE_DOCS=1 cargo test -p comet-config writes it anew";
        assert_eq!(committed, made, "{name}:{number} is not as its key is declared: {advice}");
    }
    assert_eq!(committed.len(), made.len(), "{name} has another end");
}

/// Everything above the first section is written by hand.
#[test]
fn the_shipped_file_is_as_the_keys_are_declared() {
    check("comet.toml", |committed| {
        let above = committed.lines().take_while(|line| line.starts_with('#') && *line != MADE);
        let above: String = above.map(|line| format!("{line}\n")).collect();
        let sections: Vec<String> = SECTIONS.iter().map(section).collect();
        format!("{above}{MADE}\n\n{}", sections.join("\n"))
    });
}

/// The last line above the sections.
const MADE: &str =
    "# Below, each section and key is made from its declaration in crates/comet-config.";

/// The text about secrets.
const IN_A_FILE: &str = r#"A secret; its text may be in a file: { file = "PATH" }."#;

fn section(section: &Section) -> String {
    let is_alive = is_alive(section);
    let all = if is_alive { "Every key here is (alive)." } else { "" };
    let mut text = comment(&[section.about, all].join(" "), "# ", "# ");
    if let Some(key) = section.tables() {
        text += &comment(&[key.about, &key.limits()].join(" "), "# ", "# ");
        return text + &format!("# [[{}]]\n", section.name);
    }
    text += &format!("[{}]\n", section.name);
    for key in section.keys {
        let mark = if !is_alive && changes_alive(key) { "(alive)" } else { "" };
        let secret = if key.is_secret() { IN_A_FILE } else { "" };
        text += &comment(&[key.about, &key.limits(), secret, mark].join(" "), "# ", "# ");
        for Word { word, meaning } in key.words() {
            text += &comment(&format!("\"{word}\": {meaning}"), "#   ", "#     ");
        }
        text += &format!("{} = {}\n", key.name, key.default);
    }
    text
}

fn is_alive(section: &Section) -> bool {
    section.keys.iter().all(changes_alive)
}

fn changes_alive(key: &Key) -> bool {
    matches!(key.takes_effect, TakesEffect::Alive | TakesEffect::AliveInLogic)
}

/// `text` in lines, the first of which begins with `first` and the others with `next`.
fn comment(text: &str, first: &str, next: &str) -> String {
    let mut lines = vec![first.trim_end().to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.len() + 1 + word.len() <= WIDTH {
            let gap = if line.len() < first.len() { &first[line.len()..] } else { " " };
            *line += &format!("{gap}{word}");
        } else {
            lines.push(format!("{next}{word}"));
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

#[test]
fn the_reference_is_as_the_keys_are_declared() {
    check("docs/CONFIG.md", |committed| {
        let [begin, end] = ["<!-- keys -->\n", "<!-- end of keys -->\n"];
        let (above, rest) = committed.split_once(begin).unwrap();
        let (_, below) = rest.split_once(end).unwrap();
        let tables: String = SECTIONS.iter().map(table).collect();
        format!("{above}{begin}{tables}\n{end}{below}")
    });
}

fn table(section: &Section) -> String {
    let name = match section.tables() {
        Some(_) => format!("[[{}]]", section.name),
        None => format!("[{}]", section.name),
    };
    let mut text = format!("\n### {name}\n\n{}\n\n", words(section.about));
    text += "| key | value | default | limits | alive | meaning |\n|---|---|---|---|---|---|\n";
    text.extend(section.keys.iter().map(row));
    text
}

fn row(key: &Key) -> String {
    let mut meaning = words(key.about);
    for Word { word, meaning: of_word } in key.words() {
        meaning += &format!("<br>`\"{word}\"`: {}", words(of_word));
    }
    if key.is_secret() {
        meaning += &format!(" {}", IN_A_FILE.replace('{', "`{").replace('}', "}`"));
    }
    let alive = if changes_alive(key) { "yes" } else { "" };
    let (name, form, default, limits) = (key.name, key.form(), key.default, key.limits());
    format!("| `{name}` | {form} | `{default}` | {limits} | {alive} | {meaning} |\n")
}

/// `text` on one line.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
