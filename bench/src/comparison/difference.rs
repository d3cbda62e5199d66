//! Differences between the results of a comparison, apart from their figures: hosts, pinning, configurations, and runs
//! that did not pass.

use std::collections::BTreeMap;

use serde_json::Value;

use super::file::ResultFile;

/// The CPUs of the bench are in the pinning, and where it writes does not matter.
const CONFIG_IGNORED: &str = "host.";

/// A sentence for each difference.
pub(super) fn between(files: &[ResultFile]) -> Vec<String> {
    let words = |key: &str| key.replace(['_', '.'], " ");
    // The last part of a key is the name of the flag.
    let flag = |key: &str| format!("--{}", key.rsplit('.').next().unwrap_or(key).replace('_', "-"));
    let mut differences = differing(files, "hosts differ in", |file| &file.host, words);
    differences.extend(differing(files, "pinning differs for", |file| &file.pinning, words));
    differences.extend(differing(files, "arguments differ in", |file| &file.config, flag));
    for file in files {
        if let Some(first) = file.faults.first() {
            let (name, count) = (&file.name, file.faults.len());
            differences.push(format!("{name} did not pass, faults: {count}, the first: {first}"));
        }
    }
    differences
}

/// The keys below a part of the results whose values are not all equal.
fn differing(
    files: &[ResultFile],
    what: &str,
    part: fn(&ResultFile) -> &Value,
    name: impl Fn(&str) -> String,
) -> Vec<String> {
    let mut values: BTreeMap<String, Vec<Option<&Value>>> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        flatten("", part(file), &mut |key, value| {
            values.entry(key).or_insert_with(|| vec![None; files.len()])[index] = Some(value);
        });
    }
    let differing = values.into_iter().filter(|(key, values)| {
        !key.starts_with(CONFIG_IGNORED) && values.iter().any(|value| *value != values[0])
    });
    let words = differing.map(|(key, values)| {
        let named = values.iter().zip(files).map(|(value, file)| {
            let value = match value {
                None | Some(Value::Null) => "not set",
                Some(Value::String(text)) => text,
                Some(value) => &value.to_string(),
            };
            format!("{value} in {}", file.name)
        });
        format!("{what} {}: {}", name(&key), named.collect::<Vec<_>>().join(", "))
    });
    words.collect()
}

/// Passes on keys, written with dots, and their values; a list is a value.
fn flatten<'a>(prefix: &str, value: &'a Value, found: &mut impl FnMut(String, &'a Value)) {
    for (key, member) in value.as_object().into_iter().flatten() {
        let key = format!("{prefix}{key}");
        if member.is_object() {
            flatten(&(key + "."), member, found);
        } else {
            found(key, member);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::file::tests::result;
    use super::*;

    #[test]
    fn differing_keys_are_named() {
        let file = |name: &str| result(name, "fanout", &json!({}));
        assert_eq!(between(&[file("a")]), [""; 0]);
        assert_eq!(between(&[file("a"), file("b")]), [""; 0]);
        let mut first = file("a");
        first.config = json!({"load": {"in_flight": 10.0, "size": 1}, "host": {"json": "a.json"}});
        let mut second = file("b");
        second.config = json!({"load": {"size": 1}, "host": {"json": "b.json"}, "set": ["x=1"]});
        second.host["kernel"] = json!("6.9");
        second.pinning["bench"] = json!("2");
        second.faults = vec!["a fault".to_owned(), "another".to_owned()];
        let expected = [
            "hosts differ in kernel: 6.8 in a, 6.9 in b",
            "pinning differs for bench: 1 in a, 2 in b",
            "arguments differ in --in-flight: 10.0 in a, not set in b",
            "arguments differ in --set: not set in a, [\"x=1\"] in b",
            "b did not pass, faults: 2, the first: a fault",
        ];
        assert_eq!(between(&[first, second]), expected);
    }
}
