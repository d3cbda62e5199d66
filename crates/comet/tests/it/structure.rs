//! The structure of the workspace: no two files of a crate import each other in a cycle, and the tests and commands that
//! docs/TESTING.md names exist.
//!
//! A file imports another one by `use crate::…`, `use super::…` or `use self::…`; imports of the crate's
//! root (`lib.rs`) and inside `mod tests` do not count. `.ci/edges` has the rules between crates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The path of a module. That of the crate's root is empty.
type Module = Vec<String>;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folders of the crates.
fn packages() -> impl Iterator<Item = PathBuf> {
    let crates = fs::read_dir(workspace().join("crates")).unwrap();
    let crates = crates.map(|entry| entry.unwrap().path()).chain([workspace().join("bench")]);
    // The fuzz targets are not a crate of the workspace.
    crates.filter(|package| package.join("src").is_dir())
}

#[test]
fn no_files_import_each_other_in_a_cycle() {
    let mut imports_total = 0;
    for package in packages() {
        let imports = imports(&package.join("src"));
        imports_total += imports.values().map(BTreeSet::len).sum::<usize>();
        let cycle = files_in_cycles(imports);
        let cycle: Vec<_> = cycle.iter().map(|module| module.join("::")).collect();
        assert!(cycle.is_empty(), "{}: cycles among {cycle:?}", package.display());
    }
    assert!(imports_total > 500, "only {imports_total} imports were found");
}

#[test]
fn import_cycles_are_found_and_use_trees_are_parsed() {
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")];
    let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, to) in edges {
        imports.entry(module(from)).or_default().insert(module(to));
        imports.entry(module(to)).or_default();
    }
    assert_eq!(files_in_cycles(imports), ["a", "b", "c"].map(module));
    let paths = paths("crate::{a::{B, c::D}, e as f}");
    assert_eq!(paths, ["crate::a::B", "crate::a::c::D", "crate::e as f"]);
}

#[test]
fn the_tests_and_commands_in_testing_md_exist() {
    let text = fs::read_to_string(workspace().join("docs/TESTING.md")).unwrap();
    let named = named(&text);
    let of_tests = named.iter().filter(|(_, name)| !name.contains(' ')).count();
    assert!(of_tests > 100, "only {of_tests} tests are named in the columns {TESTS:?}");
    let targets = Targets::read();
    let missing = named.iter().filter(|(_, name)| !targets.exists(name));
    let missing: Vec<_> = missing.map(|(line, name)| format!("line {line}: {name}")).collect();
    assert!(
        missing.is_empty(),
        "docs/TESTING.md has names of missing tests or commands: {missing:#?}"
    );
}

#[test]
fn names_in_a_document_are_found_and_checked() {
    let text = "`make soak`, `a_word`\n\n| promise | tests |\n|---|---|\n| `a_word` | `a_test`, `make no` |\n\n\
                | what | is tried |\n|---|---|\n| `make fuzz TARGETS=\"tls no\"` | `a_word` |";
    let fuzz = "make fuzz TARGETS=\"tls no\"";
    let named = named(text);
    assert_eq!(named, [(1, "make soak"), (5, "a_test"), (5, "make no"), (9, fuzz)]);
    let targets = Targets::read();
    let found = named.iter().filter(|(_, name)| targets.exists(name));
    assert_eq!(found.collect::<Vec<_>>(), [&(1, "make soak")]);
    assert!(
        targets.exists("make fuzz TARGETS=\"tls frame\"") && targets.exists("comet-bench books")
    );
    assert!(targets.exists("names_in_a_document_are_found_and_checked"));
    assert!(!targets.exists("named"), "a function that is not a test");
}

/// The heading of table columns in which each name in backticks is a test or a command that runs one.
const TESTS: &str = "tests";

/// The names in a document and their lines: commands anywhere, and tests in the columns with the heading.
fn named(text: &str) -> Vec<(usize, &str)> {
    let mut named = Vec::new();
    let mut column = None;
    for (line, number) in text.lines().zip(1..) {
        let is_row = line.starts_with('|');
        let cells: Vec<&str> = line.split(|it| is_row && it == '|').map(str::trim).collect();
        if !is_row {
            column = None;
        } else if cells.contains(&TESTS) {
            column = cells.iter().position(|cell| *cell == TESTS);
        }
        for (at, cell) in cells.iter().enumerate() {
            let names = cell.split('`').skip(1).step_by(2);
            let is_command =
                |name: &&str| name.starts_with("make ") || name.starts_with("comet-bench ");
            let names = names.filter(|name| column == Some(at) || is_command(name));
            named.extend(names.map(|name| (number, name)));
        }
    }
    named
}

/// The tests and commands that exist.
struct Targets {
    tests: BTreeSet<String>,
    makefile: String,
}

impl Targets {
    fn read() -> Self {
        let mut files = Vec::new();
        let folders =
            packages().flat_map(|package| ["src", "tests"].map(|name| package.join(name)));
        folders.filter(|folder| folder.is_dir()).for_each(|folder| list(&folder, &mut files));
        let mut tests = BTreeSet::new();
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            for attribute in ["#[test]", "#[tokio::test"] {
                let functions = text.split(attribute).skip(1);
                let functions = functions.filter_map(|rest| rest.split_once("fn "));
                let names = functions.filter_map(|(_, rest)| rest.split_once('('));
                tests.extend(names.map(|(name, _)| name.to_owned()));
            }
        }
        Self { tests, makefile: fs::read_to_string(workspace().join("Makefile")).unwrap() }
    }

    /// Looks up a test by its name, `make TARGET`, `make fuzz TARGETS="…"` or `comet-bench COMMAND`.
    fn exists(&self, name: &str) -> bool {
        let is_file = |folder: &str, name: &str| {
            workspace().join(folder).join(name).with_extension("rs").is_file()
        };
        let first = |words: &str| words.split(' ').next().unwrap_or_default().to_owned();
        if let Some(fuzzed) = name.strip_prefix("make fuzz TARGETS=") {
            let mut fuzzed = fuzzed.trim_matches('"').split(' ');
            fuzzed.all(|target| is_file("crates/fuzz/fuzz_targets", target))
        } else if let Some(target) = name.strip_prefix("make ") {
            self.makefile.contains(&format!("\n{}:", first(target)))
        } else if let Some(command) = name.strip_prefix("comet-bench ") {
            is_file("bench/src/scenario", &first(command))
        } else {
            self.tests.contains(name)
        }
    }
}

/// The imports of each module of the crate whose sources are in `src`.
fn imports(src: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut files = Vec::new();
    list(src, &mut files);
    let module = |file: &Path| -> Module {
        let path = file.strip_prefix(src).unwrap().with_extension("");
        let names = path.iter().map(|name| name.to_str().unwrap().to_owned());
        names.filter(|name| !matches!(name.as_str(), "lib" | "main")).collect()
    };
    let modules: BTreeSet<Module> = files.iter().map(|file| module(file)).collect();
    let imported = |file: &PathBuf| {
        let own = module(file);
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().map(|line| line.split("//").next().unwrap());
        let code = lines.collect::<Vec<_>>().join(" ");
        let uses = code.split("use ").skip(1).filter_map(|rest| rest.split_once(';'));
        let paths = uses.flat_map(|(tree, _)| paths(tree));
        let found = paths.filter_map(|path| resolve(&path, &own, &modules));
        let found = found.filter(|found| *found != own).collect();
        (own, found)
    };
    files.iter().map(imported).collect()
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The paths of a use tree, `a::{b, c::d}`, each in full.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let Some(inner) = rest.strip_suffix('}') else { return Vec::new() };
    let (mut depth, mut begin, mut branches) = (0, 0, Vec::new());
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(&inner[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    branches.push(&inner[begin..]);
    let branches = branches.iter().filter(|branch| !branch.trim().is_empty());
    branches.flat_map(|branch| paths(&format!("{prefix}{}", branch.trim()))).collect()
}

/// The module that contains the item `path`, seen from `own`. `None` for other crates and the root.
fn resolve(path: &str, own: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let path = path.split(" as ").next().unwrap();
    let mut names = path.split("::").map(str::trim).peekable();
    let mut found = match *names.peek()? {
        "crate" => Module::new(),
        "self" | "super" => own.clone(),
        _ => return None,
    };
    while let Some(name) = names.next_if(|name| matches!(*name, "crate" | "self" | "super")) {
        if name == "super" {
            found.pop();
        }
    }
    found.extend(names.map(str::to_owned));
    while !modules.contains(&found) {
        found.pop()?;
    }
    (!found.is_empty()).then_some(found)
}

/// The modules in cycles and between them: the rest after repeated removal of modules that import none of the rest or are
/// imported by none of the rest.
fn files_in_cycles(mut imports: BTreeMap<Module, BTreeSet<Module>>) -> Vec<Module> {
    loop {
        let imported: BTreeSet<Module> = imports.values().flatten().cloned().collect();
        let before = imports.len();
        let left: BTreeSet<Module> = imports
            .iter()
            .filter(|(module, of)| {
                imported.contains(*module) && of.iter().any(|to| imports.contains_key(to))
            })
            .map(|(module, _)| module.clone())
            .collect();
        imports.retain(|module, _| left.contains(module));
        for of in imports.values_mut() {
            of.retain(|to| left.contains(to));
        }
        if imports.len() == before {
            return imports.into_keys().collect();
        }
    }
}
