//! Places in the text.

use datafusion::sql::sqlparser::tokenizer::Location;

/// A text and where its lines start.
pub(super) struct SourceText<'a> {
    text: &'a str,
    /// Byte offsets.
    lines: Vec<usize>,
}

impl<'a> SourceText<'a> {
    pub(super) fn new(text: &'a str) -> SourceText<'a> {
        let behind_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        SourceText { text, lines: std::iter::once(0).chain(behind_breaks).collect() }
    }

    /// What is written from `start` up to, not including, `end`.
    pub(super) fn between(&self, start: Location, end: Location) -> &'a str {
        self.text.get(self.offset(start)..self.offset(end)).unwrap_or_default()
    }

    /// In bytes; sqlparser counts lines and, in a line, characters, both from 1.
    fn offset(&self, at: Location) -> usize {
        let line = at.line.checked_sub(1).and_then(|line| self.lines.get(usize::try_from(line).ok()?));
        let Some(start) = line else { return self.text.len() };
        let characters = usize::try_from(at.column.saturating_sub(1)).unwrap_or(usize::MAX);
        let rest = &self.text[*start..];
        start + rest.char_indices().nth(characters).map_or(rest.len(), |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_characters_from_one() {
        let text = SourceText::new("ä b\nçd e");
        let between =
            |a, b, c, d| text.between(Location { line: a, column: b }, Location { line: c, column: d });
        assert_eq!(between(1, 1, 1, 2), "ä");
        assert_eq!(between(1, 3, 2, 3), "b\nçd");
        assert_eq!(between(2, 4, 9, 1), "e");
        assert_eq!(between(2, 4, 1, 1), "");
        assert_eq!(between(0, 0, 0, 0), "");
    }
}
