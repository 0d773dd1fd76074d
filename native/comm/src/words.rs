//! How errors name ranks and spans of time.

use std::time::Duration;

/// How many ranks a message names.
const NAMED: usize = 8;

/// `rank 2`, `ranks 1 and 2`, or `ranks 0, 1, 2, 3, 4, 5, 6, 7 and 92 more`.
pub(crate) fn ranks(ranks: &[usize]) -> String {
    match ranks {
        [one] => format!("rank {one}"),
        _ if ranks.len() > NAMED => {
            format!("ranks {} and {} more", list(&ranks[..NAMED]), ranks.len() - NAMED)
        }
        [but_last @ .., last] => format!("ranks {} and {last}", list(but_last)),
        [] => "no rank".into(),
    }
}

fn list(ranks: &[usize]) -> String {
    ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// `300 s`, `0.25 s`.
pub(crate) fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_listed_as_far_as_anyone_reads() {
        assert_eq!(ranks(&[2]), "rank 2");
        assert_eq!(ranks(&[1, 2]), "ranks 1 and 2");
        assert_eq!(ranks(&[1, 2, 5]), "ranks 1, 2 and 5");
        let all: Vec<usize> = (0..100).collect();
        assert_eq!(ranks(&all), "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 92 more");
    }

    #[test]
    fn spans_are_in_seconds() {
        assert_eq!(seconds(Duration::from_secs(300)), "300 s");
        assert_eq!(seconds(Duration::from_millis(250)), "0.25 s");
    }
}
