//! What people see: colours, tables, bars, histograms.

use std::io::IsTerminal;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};

/// Characters that a full bar takes.
const BAR: usize = 30;
/// Rows of a histogram.
const ROWS: usize = 16;
/// Rows of a distribution.
const BINS: usize = 8;

pub(crate) fn bold(text: &str) -> String {
    painted("1", text)
}

pub(crate) fn green(text: &str) -> String {
    painted("32", text)
}

pub(crate) fn red(text: &str) -> String {
    painted("31", text)
}

pub(crate) fn yellow(text: &str) -> String {
    painted("33", text)
}

fn painted(code: &str, text: &str) -> String {
    // Text goes to either stream, so either one being a file is enough to keep escape sequences out of it.
    let terminals = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
    let plain = std::env::var_os("NO_COLOR").is_some() || !terminals;
    if plain { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
}

/// A table whose first column is text and whose others are numbers.
pub(crate) fn table<R: AsRef<[String]>>(header: &[&str], rows: impl IntoIterator<Item = R>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    // Not bold: the table would count the escape sequences as width.
    table.set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.as_ref().iter().map(Cell::new));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A progress bar on standard error; none without a terminal.
pub(crate) fn progress(len: u64, shown: bool) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {bar:30} {pos}/{len} {msg} ({eta} left)");
    ProgressBar::new(len).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Nanoseconds as microseconds, or as they are if they are few.
pub(crate) fn time(nanos: f64) -> String {
    if nanos < 1000.0 { format!("{nanos:.1} ns") } else { format!("{:.2} µs", nanos / 1000.0) }
}

/// A large number with separators.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bar of eighths of a character, as long as `value` is of `most`.
pub(crate) fn bar(value: f64, most: f64) -> String {
    let eighths = if most > 0.0 { (value / most * (BAR * 8) as f64).round() as usize } else { 0 };
    let eighths = eighths.min(BAR * 8);
    let mut text = "█".repeat(eighths / 8);
    text.extend(['▏', '▎', '▍', '▌', '▋', '▊', '▉'].get((eighths % 8).wrapping_sub(1)));
    text
}

/// Prints labelled values with a bar each.
pub(crate) fn bars(title: &str, values: &[(String, f64)], show: impl Fn(f64) -> String) {
    let most = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let width = values.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    println!("{}", bold(title));
    for (label, value) in values {
        println!("  {label:width$}  {:BAR$}  {}", bar(*value, most), show(*value));
    }
}

/// Prints how values are distributed between the least and the greatest.
pub(crate) fn distribution(title: &str, values: &[f64]) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let step = ((high - low) / BINS as f64).max(1e-9);
    let mut counts = [0.0; BINS];
    for value in values.iter().filter(|value| value.is_finite()) {
        counts[(((value - low) / step) as usize).min(BINS - 1)] += 1.0;
    }
    let edge = |bin: usize| low + bin as f64 * step;
    let labelled: Vec<_> = counts
        .into_iter()
        .enumerate()
        .map(|(bin, count)| (format!("{:.3} – {:.3}", edge(bin), edge(bin + 1)), count))
        .collect();
    bars(title, &labelled, |count| format!("{count}"));
}

/// Counts by value, in nanoseconds.
pub(crate) type Buckets = Vec<(u64, u64)>;

/// Prints two latency histograms side by side, on one scale, from the least value to the 97th percentile.
pub(crate) fn histograms(names: [&str; 2], sides: [&Buckets; 2]) {
    let low = sides.iter().filter_map(|side| quantile(side, 0.001)).min().unwrap_or(0);
    let high = sides.iter().filter_map(|side| quantile(side, 0.97)).max().unwrap_or(1);
    let step = ((high.saturating_sub(low)) / ROWS as u64).max(1);
    let row_of = |nanos: u64| (nanos.saturating_sub(low) / step).min(ROWS as u64) as usize;
    let shares = sides.map(|side| {
        let mut shares = [0.0; ROWS + 1];
        let total: u64 = side.iter().map(|(_, count)| count).sum();
        for (nanos, count) in side {
            shares[row_of(*nanos)] += *count as f64 / total.max(1) as f64;
        }
        shares
    });
    let most = shares.iter().flatten().copied().fold(0.0, f64::max);
    println!("{}", bold(&format!("{:>15}  {:width$}  {}", "µs", names[0], names[1], width = BAR + 8)));
    for row in 0..=ROWS {
        let begin = (low + row as u64 * step) as f64 / 1000.0;
        let label = if row < ROWS {
            format!("{begin:.2} – {:.2}", begin + step as f64 / 1000.0)
        } else {
            format!("over {begin:.2}")
        };
        let [left, right] = shares.map(|side: [f64; ROWS + 1]| {
            let share = side[row];
            format!("{:BAR$} {:5.1} %", bar(share, most), share * 100.0)
        });
        println!("{label:>15}  {left}  {right}");
    }
}

/// The value below which a share of all counts lies.
pub(crate) fn quantile(buckets: &Buckets, share: f64) -> Option<u64> {
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    let rank = (total as f64 * share).ceil().max(1.0) as u64;
    let mut below = 0;
    buckets.iter().find_map(|(nanos, count)| {
        below += count;
        (below >= rank).then_some(*nanos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_counts() {
        let buckets = vec![(10, 50), (20, 49), (30, 1)];
        assert_eq!([0.0, 0.5, 0.51, 0.99, 1.0].map(|q| quantile(&buckets, q).unwrap()), [10, 10, 20, 20, 30]);
        assert_eq!(quantile(&Vec::new(), 0.5), None);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567.2), "1,234,567");
        assert_eq!(thousands(123.0), "123");
        assert_eq!(time(7123.0), "7.12 µs");
        assert_eq!(bar(1.0, 1.0).chars().count(), BAR);
        assert_eq!(bar(0.0, 0.0), "");
    }
}
