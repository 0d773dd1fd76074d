//! Advice as text.

use std::fmt::Write as _;

use super::Advice;

/// Marks of the longest bar.
const WIDTH: f64 = 24.0;

/// A line on each, with a bar of what computing hides, `█`, and of what it does not, `░`; and below each how it changes what is
/// learnt, where it does, and what needs plain SGD.
pub fn table(all: &[Advice]) -> String {
    let longest = all.iter().map(|advice| advice.seconds).fold(f64::MIN_POSITIVE, f64::max);
    let mut out = format!("{:>3}  {:>9}  {:<25} {:>9}  strategy\n", "", "a step", "", "sends");
    for (nth, advice) in all.iter().enumerate() {
        let marks = |seconds: f64| (WIDTH * seconds / longest).round() as usize;
        let whole = marks(advice.seconds).max(1);
        let exposed = marks(advice.exposed).min(whole);
        let bar = "█".repeat(whole - exposed) + &"░".repeat(exposed);
        let (seconds, sends) = (span(advice.seconds), size(advice.bytes as f64));
        _ = writeln!(out, "{:>3}  {seconds:>9}  {bar:<25} {sends:>9}  {}", nth + 1, advice.spec);
        let needs = if advice.spec.entry().plain_sgd { "; needs optimizer sgd with momentum 0" } else { "" };
        _ = writeln!(out, "{:52}{}: {}; {}{needs}", "", advice.bound, advice.reason, advice.change);
    }
    out
}

/// `1.25 s`, `20 ms`, `3 µs`.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 1.0 => format!("{} s", short(seconds)),
        _ if seconds >= 1e-3 => format!("{} ms", short(seconds * 1e3)),
        _ => format!("{} µs", short(seconds * 1e6)),
    }
}

/// `1.25 GB`, `20 MB`, `3 kB`.
fn size(bytes: f64) -> String {
    match bytes {
        _ if bytes >= 1e9 => format!("{} GB", short(bytes / 1e9)),
        _ if bytes >= 1e6 => format!("{} MB", short(bytes / 1e6)),
        _ => format!("{} kB", short(bytes / 1e3)),
    }
}

/// To three digits or so.
fn short(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([span(1.234), span(0.0234), span(3e-6)], ["1.23 s", "23.4 ms", "3.00 µs"]);
        assert_eq!([size(1.25e9), size(2e8), size(512.0)], ["1.25 GB", "200 MB", "0.51 kB"]);
    }
}
