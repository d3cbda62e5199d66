//! Lists of tables, each of which is a rule.

use toml::Spanned;

use super::Check;

/// Checks a list of at most `most` rules. A rule that `rule` refuses is reported with its position.
pub(super) fn check_rules<Raw, Rule>(
    raw: Vec<Spanned<Raw>>,
    most: usize,
    check: &mut Check<'_>,
    rule: impl Fn(Raw) -> Result<Rule, String>,
) -> Option<Vec<Rule>> {
    if raw.len() > most {
        return check.refuse(format!("{} rules are too many: up to {most}", raw.len()));
    }
    let mut rules = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let at = raw.span();
        match rule(raw.into_inner()) {
            Ok(rule) => rules.push(rule),
            Err(what) => check.refuse_element(index, at, what),
        }
    }
    Some(rules)
}
