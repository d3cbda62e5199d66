//! What is to be reached, and whether it is: one line of the table for each goal.

use serde::Serialize;

use crate::report::{number, table};
use crate::stats::Spread;

/// A figure that is measured, with what it should be.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Goal {
    /// Which of the project's targets it belongs to, from 1; several goals may make up one.
    pub target: u8,
    /// Its name in the file, the same for ever.
    pub name: &'static str,
    pub what: &'static str,
    /// None for a figure that stands beside others for comparison: a floor.
    pub reach: Option<Reach>,
    pub unit: &'static str,
    /// Digits behind the point.
    #[serde(skip)]
    pub decimals: usize,
    /// What the figure is made of.
    pub compared: &'static str,
}

/// A bound, in the goal's unit.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reach {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

/// A goal and what was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    #[serde(flatten)]
    goal: Goal,
    /// One figure for each round.
    rounds: Vec<f64>,
    measured: Option<Spread>,
    /// Why it could not be measured.
    failure: Option<String>,
    /// None where nothing was to be reached. What could not be measured is not reached.
    reached: Option<bool>,
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
        with_unit(format!("{sign} {bound:.*}", goal.decimals), goal)
    }
}

impl Line {
    /// Judges a goal by the median of its rounds; `failure` is why there are none, or too few.
    pub(super) fn judge(goal: &Goal, rounds: Vec<f64>, failure: Option<String>) -> Self {
        let measured = Spread::of(rounds.iter().copied());
        let failure = failure.or_else(|| measured.is_none().then(|| "no figures".to_owned()));
        let holds = |reach: Reach| {
            failure.is_none() && measured.is_some_and(|measured| reach.holds(measured.median))
        };
        Self { reached: goal.reach.map(holds), goal: *goal, rounds, measured, failure }
    }

    pub(super) fn target(&self) -> u8 {
        self.goal.target
    }

    /// Not reached, or not known to be.
    pub(super) fn is_missed(&self) -> bool {
        self.reached == Some(false)
    }

    /// Why the line could not be measured, in words.
    pub(super) fn failure(&self) -> Option<String> {
        let words = self.failure.as_ref()?;
        Some(format!("{} could not be measured: {words}", self.goal.name))
    }

    fn cells(&self, compared_width: usize) -> Vec<String> {
        let goal = &self.goal;
        let reach = goal.reach.map_or_else(|| "-".to_owned(), |reach| reach.words(goal));
        let median = self.measured.map(|is| is.median);
        let measured = with_unit(number(median, goal.decimals), goal);
        let range = match self.measured {
            Some(is) => format!("{:.*} to {:.*}", goal.decimals, is.min, goal.decimals, is.max),
            None => "-".to_owned(),
        };
        let reached = match self.reached {
            None => "-",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        // Of one width, so that the last column stands at the left.
        let compared = format!("{:compared_width$}", goal.compared);
        let what = format!("{:>2} {}", goal.target, goal.what);
        vec![what, reach, measured, range, reached.to_owned(), compared]
    }
}

/// All lines as text, under headings, and a sentence for each that could not be measured.
pub(super) fn render(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.goal.compared.len()).max().unwrap_or(0);
    let heading = format!("{:width$}", "compared");
    let headings = ["   what", "reach", "measured", "over the rounds", "reached", &heading];
    let rows: Vec<Vec<String>> = lines.iter().map(|line| line.cells(width)).collect();
    table(&headings, &rows)
}

fn with_unit(figure: String, goal: &Goal) -> String {
    if goal.unit.is_empty() { figure } else { format!("{figure} {}", goal.unit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = Goal {
        target: 8,
        name: "a_call",
        what: "a call",
        reach: Some(Reach::AtMost(40.0)),
        unit: "us",
        decimals: 1,
        compared: "CPU of a call",
    };

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
    fn what_is_not_measured_is_not_reached() {
        let missed = line(Some(Reach::AtMost(1.0)), &[], None);
        assert!(missed.is_missed());
        assert_eq!(missed.failure().unwrap(), "a_call could not be measured: no figures");
        let cut_short = line(Some(Reach::AtMost(1.0)), &[0.5], Some("the server ended"));
        assert!(cut_short.is_missed());
        assert_eq!(cut_short.failure().unwrap(), "a_call could not be measured: the server ended");
    }

    #[test]
    fn a_floor_is_neither_reached_nor_missed() {
        let floor = line(None, &[3.0], None);
        assert_eq!((floor.reached, floor.is_missed(), floor.failure()), (None, false, None));
        assert!(line(None, &[], None).failure().is_some());
    }

    #[test]
    fn the_table_says_it_all() {
        let lines = [
            line(GOAL.reach, &[41.0, 39.0, 38.04], None),
            line(None, &[3.0], None),
            line(Some(Reach::AtLeast(50.0)), &[], Some("it ended")),
        ];
        let expected = "   what         reach  measured  over the rounds  reached  compared\n\
                        \x208 a call  <= 40.0 us   39.0 us     38.0 to 41.0      yes  CPU of a call\n\
                        \x208 a call           -    3.0 us       3.0 to 3.0        -  CPU of a call\n\
                        \x208 a call  >= 50.0 us      - us                -       NO  CPU of a call\n";
        assert_eq!(render(&lines), expected);
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
