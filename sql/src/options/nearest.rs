//! "Did you mean".

use datafusion::common::utils::datafusion_strsim::levenshtein;

/// The candidate that differs in the fewest characters, if those are at most half of it.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (edits, near) = candidates.into_iter().map(|c| (levenshtein(word, c), c)).min()?;
    (edits <= near.chars().count() / 2).then_some(near)
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
