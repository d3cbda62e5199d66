//! The goals, and whether they are reached: one line of the table for each.

use serde::Serialize;

use crate::report::{NOT_MEASURED, Table};
use crate::stats::Spread;

/// A figure to be measured, and the bound for it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Goal {
    /// The number of the project's target that it belongs to, from 1; a target may have several goals.
    pub target: u8,
    /// Its name in the file, which never changes.
    pub name: &'static str,
    pub what: &'static str,
    /// `None` for a figure that is only shown for comparison: a floor.
    pub reach: Option<Reach>,
    pub unit: &'static str,
    /// Decimals.
    #[serde(skip)]
    pub decimals: usize,
    /// How the figure is computed.
    pub compared: &'static str,
}

/// Unit and number of decimals.
type Unit = (&'static str, usize);
pub(super) const RATIO: Unit = ("", 2);
pub(super) const US: Unit = ("us", 1);

/// A figure with the words for its line in the table.
pub(super) const fn goal(
    target: u8,
    name: &'static str,
    reach: Option<Reach>,
    (unit, decimals): Unit,
    what: &'static str,
    compared: &'static str,
) -> Goal {
    Goal { target, name, what, reach, unit, decimals, compared }
}

/// The bounds, in the form used in the table of goals.
pub(super) const fn at_most(bound: f64) -> Option<Reach> {
    Some(Reach::AtMost(bound))
}

pub(super) const fn at_least(bound: f64) -> Option<Reach> {
    Some(Reach::AtLeast(bound))
}

/// A bound, in the goal's unit.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reach {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

/// A goal and its result.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    #[serde(flatten)]
    pub goal: Goal,
    /// One figure for each round.
    rounds: Vec<f64>,
    measured: Option<Spread>,
    /// Why it could not be measured.
    failure: Option<String>,
    /// `None` if the goal has no bound. A goal that could not be measured is not reached.
    pub reached: Option<bool>,
}

impl Goal {
    /// A figure with its unit, as text.
    fn figure(&self, value: f64) -> String {
        format!("{value:.*} {}", self.decimals, self.unit).trim_end().to_owned()
    }
}

impl Reach {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    fn words(self, goal: &Goal) -> String {
        let (sign, bound) = match self {
            Self::AtMost(bound) => ("<=", bound),
            Self::Below(bound) => ("<", bound),
            Self::AtLeast(bound) => (">=", bound),
        };
        format!("{sign} {}", goal.figure(bound))
    }
}

impl Line {
    /// Judges a goal by the median of its rounds; `failure` is the reason if there are none, or too few.
    pub(super) fn judge(goal: &Goal, rounds: Vec<f64>, failure: Option<String>) -> Self {
        let measured = Spread::of(rounds.iter().copied());
        let failure = failure.or_else(|| measured.is_none().then(|| "no figures".to_owned()));
        let holds = |reach: Reach| {
            failure.is_none() && measured.is_some_and(|measured| reach.holds(measured.median))
        };
        Self { reached: goal.reach.map(holds), goal: *goal, rounds, measured, failure }
    }

    /// Why the line could not be measured, as text.
    pub(super) fn failure(&self) -> Option<String> {
        let words = self.failure.as_ref()?;
        Some(format!("{} could not be measured: {words}", self.goal.name))
    }

    fn cells(&self, compared_width: usize) -> Vec<String> {
        let goal = &self.goal;
        let number = |value: f64| format!("{value:.*}", goal.decimals);
        let range = |is: Spread| format!("{} to {}", number(is.min), number(is.max));
        let yes = |reached| if reached { "yes".to_owned() } else { "NO".to_owned() };
        let cells = [
            Some(format!("{:>2} {}", goal.target, goal.what)),
            goal.reach.map(|reach| reach.words(goal)),
            self.measured.map(|is| goal.figure(is.median)),
            self.measured.map(range),
            self.reached.map(yes),
            // Padded to the same width, so that the last column is aligned to the left.
            Some(format!("{:compared_width$}", goal.compared)),
        ];
        cells.map(|cell| cell.unwrap_or_else(|| NOT_MEASURED.to_owned())).to_vec()
    }
}

/// All lines as text, followed by a legend.
pub(super) fn render(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.goal.compared.len()).max().unwrap_or(0);
    let heading = format!("{:width$}", "compared");
    let headings = ["   what", "reach", "measured", "range", "reached", &heading];
    let legend = [
        "what: behind the number of the target in the project's list",
        "reach: the bound; without one the line stands beside others",
        "measured: the median of the rounds, which is what has to keep the bound",
        "range: the least and the most of the rounds",
        "compared: what the figure is made of",
        "–: no bound, or not measured",
    ];
    let rows = lines.iter().map(|line| line.cells(width)).collect();
    Table::new(&headings, rows, &legend).text()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = goal(8, "a_call", at_most(40.0), US, "a call", "CPU of a call");

    fn line(reach: Option<Reach>, rounds: &[f64], failure: Option<&str>) -> Line {
        Line::judge(&Goal { reach, ..GOAL }, rounds.to_vec(), failure.map(str::to_owned))
    }

    #[test]
    fn the_median_is_judged() {
        let check = |reach, rounds: &[f64], reached| {
            assert_eq!(line(Some(reach), rounds, None).reached, Some(reached), "{rounds:?}");
        };
        check(Reach::AtMost(1.1), &[9.0, 1.1, 1.0], true);
        check(Reach::AtMost(1.1), &[0.9, 1.2, 1.3], false);
        check(Reach::Below(1.0), &[1.0], false);
        check(Reach::Below(1.0), &[0.99], true);
        check(Reach::AtLeast(5.0), &[5.0, 6.0], true);
        check(Reach::AtLeast(5.0), &[4.9], false);
        check(Reach::AtMost(1.0), &[f64::NAN], false);
    }

    #[test]
    fn an_unmeasured_goal_is_not_reached_and_a_floor_has_no_verdict() {
        let check = |reach, rounds: &[f64], failure, reached, words: Option<&str>| {
            let line = line(reach, rounds, failure);
            assert_eq!(line.reached, reached);
            let words = words.map(|words| format!("a_call could not be measured: {words}"));
            assert_eq!(line.failure(), words);
        };
        check(at_most(1.0), &[], None, Some(false), Some("no figures"));
        check(at_most(1.0), &[0.5], Some("it ended"), Some(false), Some("it ended"));
        check(None, &[3.0], None, None, None);
        check(None, &[], None, None, Some("no figures"));
    }

    #[test]
    fn the_table_has_goal_figure_range_and_verdict() {
        let lines = [
            line(GOAL.reach, &[41.0, 39.0, 38.04], None),
            line(None, &[3.0], None),
            line(Some(Reach::AtLeast(50.0)), &[], Some("it ended")),
        ];
        let expected = "   what         reach  measured         range  reached  compared\n\
                        \x208 a call  <= 40.0 us   39.0 us  38.0 to 41.0      yes  CPU of a call\n\
                        \x208 a call           –    3.0 us    3.0 to 3.0        –  CPU of a call\n\
                        \x208 a call  >= 50.0 us         –             –       NO  CPU of a call\n";
        let text = render(&lines);
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("\n  –: no bound, or not measured\n"), "{text}");
    }

    #[test]
    fn the_file_has_goal_and_figures_in_one_object() {
        let json = serde_json::to_value(line(GOAL.reach, &[30.0], None)).unwrap();
        assert_eq!(json["name"], "a_call");
        assert_eq!(json["reach"]["at_most"], 40.0);
        assert_eq!(json["measured"]["median"], 30.0);
        assert_eq!(json["reached"], true);
    }
}
