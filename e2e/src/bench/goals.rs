//! What is asked of the figures of a benchmark, and whether they are so.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// The figures of all runs, by case and name.
pub(crate) type Table = BTreeMap<(String, String), Vec<f64>>;

/// One thing that is asked of the figures of one name.
#[derive(Clone, Copy)]
pub(crate) struct Goal {
    /// The cases that it is about; none for all.
    pub(crate) cases: &'static [&'static str],
    pub(crate) figure: &'static str,
    pub(crate) of: Of,
    pub(crate) at_most: f64,
    /// Whether the benchmark fails without it. What else is asked depends on the machine.
    pub(crate) must: bool,
}

/// Which of the runs counts.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Median,
    Greatest,
}

impl Of {
    fn value(self, sorted: &[f64]) -> Option<f64> {
        match self {
            Self::Median => sorted.get(sorted.len() / 2),
            Self::Greatest => sorted.last(),
        }
        .copied()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Median => "median",
            Self::Greatest => "greatest",
        }
    }
}

/// One line of the verdict: what it is about, what was measured, and whether that is good. A case that was not run has
/// none.
struct Line {
    text: String,
    good: bool,
    must: bool,
}

fn lines(goals: &[Goal], table: &Table) -> Vec<Line> {
    let mut lines = Vec::new();
    for goal in goals {
        let about = |case: &str| goal.cases.is_empty() || goal.cases.contains(&case);
        let ran = |case: &&&str| table.keys().any(|(its, _)| its == **case);
        let is_measured = |case: &str| table.contains_key(&(case.to_owned(), goal.figure.to_owned()));
        for case in goal.cases.iter().filter(ran).filter(|case| !is_measured(case)) {
            let text = format!("{case:<18} {:<28} was not measured", goal.figure);
            lines.push(Line { text, good: false, must: goal.must });
        }
        for ((case, _), values) in
            table.iter().filter(|((case, figure), _)| figure == goal.figure && about(case))
        {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let Some(value) = goal.of.value(&sorted) else { continue };
            let good = value <= goal.at_most;
            let verdict = match (good, goal.must) {
                (true, _) => "met",
                (false, true) => "MISSED",
                (false, false) => "missed",
            };
            let (figure, of, most) = (goal.figure, goal.of.name(), goal.at_most);
            let kind = if goal.must { "must" } else { "goal" };
            let text = format!("{case:<18} {figure:<28} {of:<8} {value:>10.2} {most:>10.2} {kind} {verdict}");
            lines.push(Line { text, good, must: goal.must });
        }
    }
    lines
}

/// Prints for each goal what was measured and whether that is so.
///
/// # Errors
/// When what must be is not.
pub(crate) fn judge(goals: &[Goal], table: &Table) -> Result<()> {
    println!(
        "\n{:<18} {:<28} {:<8} {:>10} {:>10} kind verdict",
        "case", "figure", "of runs", "measured", "at most"
    );
    let lines = lines(goals, table);
    for line in &lines {
        println!("{}", line.text);
    }
    let missed: Vec<&str> =
        lines.iter().filter(|line| line.must && !line.good).map(|line| line.text.as_str()).collect();
    ensure!(missed.is_empty(), "what must be is not:\n{}", missed.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_is_missed_is_told_and_a_must_that_is_missed_an_error() {
        let soon =
            Goal { cases: &["dark"], figure: "outage ms", of: Of::Median, at_most: 600.0, must: false };
        let never = Goal { cases: &[], figure: "resets", of: Of::Greatest, at_most: 0.0, must: true };
        let table = |outages: &[f64], resets: &[f64]| -> Table {
            [("dark", "outage ms", outages), ("partition", "outage ms", outages), ("dark", "resets", resets)]
                .map(|(case, figure, values)| ((case.to_owned(), figure.to_owned()), values.to_vec()))
                .into()
        };
        let verdict = |outages: &[f64], resets: &[f64]| {
            let table = table(outages, resets);
            let good: Vec<bool> = lines(&[soon, never], &table).iter().map(|line| line.good).collect();
            (good, judge(&[soon, never], &table).is_ok())
        };
        assert_eq!(verdict(&[900.0, 600.0, 100.0], &[0.0, 0.0]), (vec![true, true], true));
        assert_eq!(verdict(&[900.0, 601.0, 100.0], &[0.0]), (vec![false, true], true));
        assert_eq!(verdict(&[1.0], &[0.0, 1.0, 0.0]), (vec![true, false], false));
        assert_eq!(verdict(&[], &[]), (vec![], true), "nothing was measured");
        let renamed =
            Goal { cases: &["dark"], figure: "outages", of: Of::Greatest, at_most: 0.0, must: true };
        assert!(judge(&[renamed], &table(&[1.0], &[0.0])).is_err(), "a case that ran lacks the figure");
    }
}
