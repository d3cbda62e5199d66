//! Result files as they are read: each is checked, and grouped with the others of its scenario.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::Result;
use crate::report::{Program, SCHEMA};

/// A result. What only some scenarios have is kept as JSON.
#[derive(Deserialize, Debug)]
pub(super) struct ResultFile {
    /// Its name in a comparison.
    #[serde(skip)]
    pub name: String,
    pub scenario: String,
    pub finished_unix_s: i64,
    pub bench: Program,
    pub server: Option<Program>,
    pub host: Value,
    pub pinning: Value,
    pub config: Value,
    pub results: Value,
    pub faults: Vec<String>,
}

/// Reads results, and finds a distinct name for each.
pub(super) fn load(paths: &[PathBuf]) -> Result<Vec<ResultFile>> {
    let read = |(path, name): (&PathBuf, String)| {
        let whole = path.display();
        let text = fs::read(path).map_err(|error| format!("cannot read {whole}: {error}"))?;
        let file = parse(&text).map_err(|words| format!("{whole} {words}"))?;
        Ok(ResultFile { name, ..file })
    };
    paths.iter().zip(names(paths)).map(read).collect()
}

/// The names of the files without folder and extension, if they are distinct.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let stem = |path: &PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let stems: BTreeSet<_> = paths.iter().filter_map(stem).collect();
    let whole = |path: &PathBuf| path.display().to_string();
    let short = |path| stem(path).filter(|_| stems.len() == paths.len());
    paths.iter().map(|path| short(path).unwrap_or_else(|| whole(path))).collect()
}

/// The results of each scenario, in the order in which scenarios first occur. It is an error if only one of several
/// scenarios has a single result, since there is nothing to compare it with.
pub(super) fn by_scenario(files: Vec<ResultFile>) -> Result<Vec<Vec<ResultFile>>> {
    let mut scenarios: Vec<Vec<ResultFile>> = Vec::new();
    for file in files {
        match scenarios.iter_mut().find(|others| others[0].scenario == file.scenario) {
            Some(others) => others.push(file),
            None => scenarios.push(vec![file]),
        }
    }
    let alone = scenarios.iter().find(|files| files.len() == 1);
    if let Some(alone) = alone.filter(|_| scenarios.len() > 1) {
        let (name, scenario) = (&alone[0].name, &alone[0].scenario);
        let others: Vec<_> = scenarios.iter().flatten().filter(|file| file.name != *name).collect();
        let words = others.iter().map(|file| format!("{} of {}", file.name, file.scenario));
        let words = words.collect::<Vec<_>>().join(", ");
        return Err(format!(
            "{name} is a result of {scenario} and cannot be compared with {words}: \
             name another result of {scenario}, or report it alone"
        )
        .into());
    }
    Ok(scenarios)
}

/// Reads a result; errors are worded to follow the file's name.
fn parse(text: &[u8]) -> Result<ResultFile, String> {
    const NAME_ONE: &str = "name a file that comet-bench has written (--json)";
    let json: Value =
        serde_json::from_slice(text).map_err(|error| format!("is no JSON: {error}; {NAME_ONE}"))?;
    if json.get("scenario").is_none() || json.get("results").is_none() {
        return Err(format!("is no result: {NAME_ONE}"));
    }
    match json.get("schema") {
        Some(schema) if *schema == SCHEMA => {}
        None => {
            return Err(format!(
                "is of a comet-bench before there were comparisons (no schema, this one reads \
                 {SCHEMA}): measure again"
            ));
        }
        Some(schema) => {
            let by = json.pointer("/bench/version").and_then(Value::as_str).unwrap_or("unknown");
            return Err(format!(
                "has schema {schema}, and this comet-bench reads {SCHEMA}: use the one that wrote \
                 it (version {by}), or measure again"
            ));
        }
    }
    serde_json::from_value(json).map_err(|error| format!("is a damaged result: {error}"))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A result of `scenario` that holds `results`.
    pub(in super::super) fn result(name: &str, scenario: &str, results: &Value) -> ResultFile {
        let text = json!({
            "schema": SCHEMA,
            "scenario": scenario,
            "finished_unix_s": 1_700_000_000,
            "bench": {"version": "0.1.0", "commit": "abc"},
            "server": null,
            "host": {"name": "edge", "kernel": "6.8"},
            "pinning": {"server": "0", "bench": "1"},
            "config": {},
            "results": results,
            "passed": true,
            "faults": [],
        });
        let file = parse(text.to_string().as_bytes()).unwrap();
        ResultFile { name: name.to_owned(), ..file }
    }

    #[test]
    fn results_go_with_others_of_their_scenario() {
        let groups = |scenarios: &[&str]| {
            let named = scenarios.iter().enumerate();
            let file =
                |(at, scenario): (usize, &&str)| result(&at.to_string(), scenario, &json!({}));
            by_scenario(named.map(file).collect()).map(|groups| {
                let names =
                    |files: &Vec<ResultFile>| files.iter().map(|file| file.name.as_str()).collect();
                groups.iter().map(names).collect::<Vec<String>>()
            })
        };
        assert_eq!(groups(&["raw"]).unwrap(), ["0"]);
        assert_eq!(groups(&["raw", "raw"]).unwrap(), ["01"]);
        assert_eq!(groups(&["raw", "idle", "raw", "idle"]).unwrap(), ["02", "13"]);
        let said = groups(&["raw", "raw", "idle"]).unwrap_err().to_string();
        assert!(said.contains("2 is a result of idle"), "{said}");
        assert!(said.contains("0 of raw, 1 of raw") && said.contains("alone"), "{said}");
    }

    #[test]
    fn files_with_the_same_name_are_distinguished_by_their_folder() {
        let check = |paths: [&str; 2], expected: [&str; 2]| {
            assert_eq!(names(&paths.map(PathBuf::from)), expected);
        };
        check(["a/one.json", "b/two.json"], ["one", "two"]);
        check(["a/one.json", "b/one.json"], ["a/one.json", "b/one.json"]);
    }
}
