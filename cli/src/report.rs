//! Reports: one JSON object on standard output, or words and tables on standard error.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::failure::Failure;
use crate::statistics::Summary;

/// Prints one JSON object, and nothing else, on standard output.
pub(crate) fn json(report: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(report).map_err(|error| Failure::Work(error.to_string()))?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(Failure::stdout)
}

/// Says a line on standard error. Where nobody listens any more, that is no reason to fail.
pub(crate) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A table on standard error: first column to the left, the others to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    say(layout(header, rows));
}

fn layout(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// A table of summaries.
pub(crate) fn summaries(rows: &[(&str, &Summary)]) {
    let header = ["", "count", "mean", "std", "min", "25%", "median", "75%", "max"];
    let cells = rows.iter().map(|(name, summary)| {
        let Summary { count, mean, std, min, p25, median, p75, max } = **summary;
        let numbers = [mean, std, min, p25, median, p75, max].map(number);
        [(*name).to_owned(), count.to_string()].into_iter().chain(numbers).collect()
    });
    table(&header, cells);
}

/// Four digits behind the point; a dash for a value that does not exist.
pub(crate) fn number(value: f64) -> String {
    match value.is_nan() {
        true => "-".to_owned(),
        false => format!("{value:.4}"),
    }
}

/// `1 row`, `2 rows`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_numbers_to_the_right() {
        let text =
            layout(&["name", "n"], [vec!["a".to_owned(), "1".to_owned()], vec!["bb".to_owned(), "22".to_owned()]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].ends_with(" 1") && lines[2].ends_with("22"), "{text}");
    }
}
