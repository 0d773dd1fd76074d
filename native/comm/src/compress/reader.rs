//! A payload, read from its front.

use firesteel_error::{Error, Result};

/// What is left of a payload.
pub(super) struct Reader<'a> {
    /// Of the compressor, for messages.
    name: &'static str,
    /// All of it.
    bytes: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(name: &'static str, payload: &'a [u8]) -> Reader<'a> {
        Reader { name, bytes: payload.len(), rest: payload }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// `Corrupt` when there are not so many.
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let read = self.bytes - self.rest.len();
        let short = || {
            let expected = read.saturating_add(bytes);
            self.corrupt(format!("a payload of {} bytes, expected at least {expected}", self.bytes))
        };
        let (front, rest) = self.rest.split_at_checked(bytes).ok_or_else(short)?;
        self.rest = rest;
        Ok(front)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// How many values follow, of `len`.
    ///
    /// # Errors
    /// `Corrupt` when they are more.
    pub(super) fn count(&mut self, len: usize) -> Result<usize> {
        let mut words = self.words(1)?;
        match words.next().map(u32::from_le_bytes) {
            Some(count) if count as usize <= len => Ok(count as usize),
            count => {
                let found = count.unwrap_or_default();
                Err(self.corrupt(format!("{found} values, expected at most {len}")))
            }
        }
    }

    /// Words of four bytes.
    pub(super) fn words(&mut self, count: usize) -> Result<impl ExactSizeIterator<Item = [u8; 4]> + use<'a>> {
        Ok(self.take(count.saturating_mul(4))?.as_chunks::<4>().0.iter().copied())
    }

    /// Ends it.
    ///
    /// # Errors
    /// `Corrupt` when there is more.
    pub(super) fn end(self) -> Result<()> {
        match self.rest {
            [] => Ok(()),
            rest => {
                let expected = self.bytes - rest.len();
                Err(self.corrupt(format!("a payload of {} bytes, expected {expected}", self.bytes)))
            }
        }
    }

    /// An error that names the compressor.
    pub(super) fn corrupt(&self, found: String) -> Error {
        Error::corrupt(format!("{}: {found}", self.name))
    }
}
