//! "Did you mean".

/// The candidate that differs in the fewest characters, if those are at most half of it.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (edits, near) = candidates.into_iter().map(|c| (distance(word, c), c)).min()?;
    (edits <= near.chars().count() / 2).then_some(near)
}

/// How many characters to insert, delete or replace (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        assert_eq!(nearest("hiden_units", ["layers", "hidden_units"]), Some("hidden_units"));
        assert_eq!(nearest("xyz", ["layers", "hidden_units"]), None);
        assert_eq!(nearest("", ["layers"]), None);
        assert_eq!(nearest("x", []), None);
    }
}
