//! A strict reader of the part of the Prometheus text format that comet writes: counters, gauges and histograms
//! without timestamps.

use std::collections::{BTreeMap, BTreeSet};

/// Every sample, as it is written, with the type of its family and its value.
pub(crate) fn parse(page: &str) -> Result<BTreeMap<String, (String, f64)>, String> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family: Option<(&str, &str)> = None;
    let mut lines = page.lines();
    if !page.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').ok_or(line)?;
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).ok_or(line)?;
            let (typed, kind) = kind.split_once(' ').ok_or(line)?;
            if typed != name || text.is_empty() || !is_name(name) || !families.insert(name) {
                return Err(format!("bad or repeated family: {line}"));
            }
            if !matches!(
                (kind, name.ends_with("_total")),
                ("counter", true) | ("gauge" | "histogram", false)
            ) {
                return Err(format!("{name} does not look like a {kind}"));
            }
            family = Some((name, kind));
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').ok_or(line)?;
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let Some((_, kind)) = family.filter(|(family, kind)| match kind {
            &"histogram" => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|part| name.strip_suffix(part) == Some(family)),
            _ => *family == name,
        }) else {
            return Err(format!("a sample outside its family: {line}"));
        };
        check_labels(labels).ok_or_else(|| format!("bad labels: {line}"))?;
        let value: f64 = value.parse().map_err(|_| format!("bad value: {line}"))?;
        if !value.is_finite() || (kind == "counter" && value < 0.0) {
            return Err(format!("bad value: {line}"));
        }
        if samples.insert(sample.to_owned(), (kind.to_owned(), value)).is_some() {
            return Err(format!("a sample twice: {line}"));
        }
    }
    Ok(samples)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `name="text",name="text"}`, where quotes, backslashes and line ends in a text are escaped.
fn check_labels(labels: &str) -> Option<()> {
    let mut rest = labels;
    while rest != "}" {
        let (name, text) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = text.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        rest = text[end + 1..].strip_prefix(',').unwrap_or(&text[end + 1..]);
        is_name(name).then_some(())?;
    }
    Some(())
}

#[test]
fn the_reader_refuses_invalid_expositions() {
    let check = |page: &str, ok: bool| assert_eq!(parse(page).is_ok(), ok, "{page:?}");
    let family = "# HELP a_total Text.\n# TYPE a_total counter\n";
    check(&format!("{family}a_total 1\n"), true);
    check(&format!("{family}a_total{{x=\"\\\"}}\",y=\"2\"}} 1\n"), true);
    check(&format!("{family}a_total 1"), false);
    check(&format!("{family}b_total 1\n"), false);
    check(&format!("{family}a_total one\n"), false);
    check(&format!("{family}a_total{{x=1}} 1\n"), false);
    check(&format!("{family}a_total 1\na_total 1\n"), false);
    check(&format!("{family}{family}"), false);
    check(&format!("{family}a_total 1.5\n"), true);
    check(&format!("{family}a_total -1\n"), false);
    check(&format!("{family}a_total NaN\n"), false);
    check("# HELP a Text.\n# TYPE a counter\na 1\n", false);
    check("a 1\n", false);
}
