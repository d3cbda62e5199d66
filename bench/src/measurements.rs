//! Finds the measurements in a result by their form, so that a new scenario needs no code here: they are lists whose
//! items name a subject or a phase, or are percentiles.

use serde_json::Value;

/// The subject of a server's figures; it comes first.
const SERVER: &str = "comet";

/// The measurements of one subject, one for each round.
pub(crate) struct Group<'a> {
    pub subject: String,
    pub rounds: Vec<&'a Value>,
}

/// The subjects of a result. A list that has several measurements of one subject and round is left out: they were made
/// under different conditions, so a median over them would mean nothing.
pub(crate) fn groups(results: &Value) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (key, list) in results.as_object().into_iter().flatten() {
        let mut of_list: Vec<Group<'_>> = Vec::new();
        for measurement in list.as_array().into_iter().flatten() {
            let Some(subject) = subject(key, measurement) else { continue };
            match of_list.iter_mut().find(|group| group.subject == subject) {
                Some(group) => group.rounds.push(measurement),
                None => of_list.push(Group { subject, rounds: vec![measurement] }),
            }
        }
        groups.extend(of_list.into_iter().filter(|group| {
            let rounds: Vec<_> = group.rounds.iter().filter_map(|is| is.get("round")).collect();
            rounds.iter().enumerate().all(|(index, round)| !rounds[..index].contains(round))
        }));
    }
    groups.sort_by_key(|group| !group.subject.starts_with(SERVER));
    groups
}

/// The percentiles in a measurement, by name; the measurement may itself be percentiles.
pub(crate) fn percentiles(measurement: &Value) -> Vec<(&str, &Value)> {
    let is_one = |value: &Value| value.get("p50_us").is_some_and(Value::is_number);
    if is_one(measurement) {
        return vec![("latency", measurement)];
    }
    let members = measurement.as_object().into_iter().flatten();
    members.filter(|(_, value)| is_one(value)).map(|(name, value)| (name.as_str(), value)).collect()
}

/// The subject of a measurement in the list `key`; `None` if it is not a measurement.
fn subject(key: &str, measurement: &Value) -> Option<String> {
    let text = |key| measurement.get(key).and_then(Value::as_str);
    let named: Vec<&str> = ["subject", "phase"].into_iter().filter_map(text).collect();
    if named.is_empty() {
        (!percentiles(measurement).is_empty()).then(|| key.replace('_', "-"))
    } else {
        Some(named.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn measurements_are_grouped_by_their_subject() {
        let turn = |subject: &str, round: u32| json!({"subject": subject, "round": round});
        let results = json!({
            "turns": [turn("ring", 1), turn("comet", 1), turn("comet", 2), turn("twice", 1), turn("twice", 1)],
            "ping_pong": [{"p50_us": 4.0}, {"latency": {"p50_us": 6.0}}],
            "phases": [{"subject": "comet", "phase": "noon"}],
            "lines": [{"name": "no measurement"}],
            "ratio": {"median": 1.0},
        });
        let found = groups(&results);
        let found: Vec<_> = found.iter().map(|is| (is.subject.as_str(), is.rounds.len())).collect();
        assert_eq!(found, [("comet noon", 1), ("comet", 2), ("ping-pong", 2), ("ring", 1)]);
    }
}
