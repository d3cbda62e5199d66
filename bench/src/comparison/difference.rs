//! What is not the same between the results of a comparison, besides their figures: hosts, pinning,
//! configurations, and runs that did not pass.

use std::collections::BTreeSet;

use serde_json::Value;

use super::file::ResultFile;

/// Where the bench runs and writes is in the pinning, or no matter.
const CONFIG_IGNORED: &str = "host.";

/// A sentence for each difference.
pub(super) fn between(files: &[ResultFile]) -> Vec<String> {
    let part = |what: &str, part: fn(&ResultFile) -> &Value| {
        let flat: Vec<Vec<(String, String)>> =
            files.iter().map(|file| flatten(part(file))).collect();
        let keys: BTreeSet<&str> = flat.iter().flatten().map(|(key, _)| key.as_str()).collect();
        let differing = keys.into_iter().filter_map(|key| {
            let value = |flat: &Vec<(String, String)>| {
                let found = flat.iter().find(|(other, _)| other == key);
                found.map_or_else(|| "not set".to_owned(), |(_, value)| value.clone())
            };
            let values: Vec<String> = flat.iter().map(value).collect();
            let differs = values.iter().any(|value| *value != values[0]);
            let named =
                values.iter().zip(files).map(|(value, file)| format!("{value} in {}", file.name));
            differs.then(|| format!("{what} {key}: {}", named.collect::<Vec<_>>().join(", ")))
        });
        differing.collect::<Vec<_>>()
    };
    let mut differences = part("hosts differ in", |file| &file.host);
    differences.extend(part("pinning differs for", |file| &file.pinning));
    let ignored = format!("configs differ in {CONFIG_IGNORED}");
    let configs = part("configs differ in", |file| &file.config);
    differences.extend(configs.into_iter().filter(|words| !words.starts_with(&ignored)));
    for file in files {
        if let Some(first) = file.faults.first() {
            let (name, count) = (&file.name, file.faults.len());
            differences.push(format!("{name} did not pass, faults: {count}, the first: {first}"));
        }
    }
    differences
}

/// Keys with dots and their values; a list is a value.
fn flatten(value: &Value) -> Vec<(String, String)> {
    let Value::Object(members) = value else {
        return vec![(String::new(), value.to_string())];
    };
    let mut flat = Vec::new();
    for (key, member) in members {
        for (below, value) in flatten(member) {
            let separator = if below.is_empty() { "" } else { "." };
            flat.push((format!("{key}{separator}{below}"), value));
        }
    }
    flat
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
        first.config = json!({"load": {"rate": 10.0, "size": 1}, "host": {"json": "a.json"}});
        let mut second = file("b");
        second.config = json!({"load": {"size": 1}, "host": {"json": "b.json"}, "set": ["x=1"]});
        second.host["kernel"] = json!("6.9");
        second.pinning["bench"] = json!("2");
        second.faults = vec!["a fault".to_owned(), "another".to_owned()];
        let expected = [
            "hosts differ in kernel: \"6.8\" in a, \"6.9\" in b",
            "pinning differs for bench: \"1\" in a, \"2\" in b",
            "configs differ in load.rate: 10.0 in a, not set in b",
            "configs differ in set: not set in a, [\"x=1\"] in b",
            "b did not pass, faults: 2, the first: a fault",
        ];
        assert_eq!(between(&[first, second]), expected);
    }
}
