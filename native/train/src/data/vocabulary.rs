//! Known texts and their indices, for scoring: put together once and asked for every row.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, StringViewArray};
use arrow_schema::DataType;
use foldhash::fast::RandomState;

use super::column;
use super::preprocess::Encoding;

/// Most bytes of a text that Arrow keeps inside of its view.
const SHORT: usize = 12;

/// The index of each text that was seen in training.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    /// Of texts that fit, by their view: one comparison of two numbers.
    short: HashMap<u128, u32, RandomState>,
    long: HashMap<Box<str>, u32, RandomState>,
}

/// A short text as Arrow's view of it: its length and its bytes.
fn view(text: &str) -> Option<u128> {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
    bytes[4..].get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(u128::from_le_bytes(bytes))
}

impl Vocabulary {
    /// Of the texts of an encoding, in their order.
    pub(crate) fn new(values: &[String]) -> Vocabulary {
        let (mut short, mut long) = (HashMap::default(), HashMap::default());
        for (text, index) in values.iter().zip(Encoding::FIRST..) {
            match view(text) {
                Some(view) => _ = short.insert(view, index),
                None => _ = long.insert(text.as_str().into(), index),
            }
        }
        Vocabulary { short, long }
    }

    fn index(&self, text: Option<&str>) -> u32 {
        let Some(text) = text else { return Encoding::NULL };
        let known = match view(text) {
            Some(view) => self.short.get(&view),
            None => self.long.get(text),
        };
        known.copied().unwrap_or(Encoding::UNKNOWN)
    }

    /// The index of each text of a column of texts.
    pub(crate) fn indices(&self, array: &dyn Array) -> Vec<u32> {
        match array.data_type() {
            DataType::Utf8View => self.of_views(array.as_string_view()),
            DataType::Dictionary(..) if !array.as_any_dictionary().values().is_empty() => {
                let dictionary = array.as_any_dictionary();
                let of_values = self.indices(dictionary.values());
                let keys = dictionary.normalized_keys().into_iter().enumerate();
                let index = |(row, key)| if array.is_null(row) { Encoding::NULL } else { of_values[key] };
                keys.map(index).collect()
            }
            _ => {
                let mut indices = Vec::with_capacity(array.len());
                column::texts(array, &mut |text| indices.push(self.index(text)));
                indices
            }
        }
    }

    fn of_views(&self, array: &StringViewArray) -> Vec<u32> {
        let index = |(row, view): (usize, &u128)| {
            if array.is_null(row) {
                return Encoding::NULL;
            }
            // The length is in the lowest four bytes.
            match (*view as u32 as usize) <= SHORT {
                true => self.short.get(view).copied().unwrap_or(Encoding::UNKNOWN),
                false => self.index(Some(array.value(row))),
            }
        };
        array.views().iter().enumerate().map(index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Int8Type;
    use arrow_array::{DictionaryArray, LargeStringArray, StringArray};

    #[test]
    fn texts_of_every_type_and_length() {
        let twelve = "é".repeat(6);
        let words = ["", "a", "twelve bytes", "thirteen byte", "é", &twelve].map(String::from);
        let vocabulary = Vocabulary::new(&words);
        let texts =
            [Some("a"), None, Some("b"), Some("thirteen byte"), Some(""), Some("twelve bytes"), Some("a\0")];
        let texts: Vec<Option<&str>> =
            texts.into_iter().chain([Some(twelve.as_str()), Some("thirteen bytes")]).collect();
        let first = Encoding::FIRST;
        let wanted = [first + 1, Encoding::NULL, 1, first + 3, first, first + 2, 1, first + 5, 1];
        let views = StringViewArray::from(texts.clone());
        let dictionary: DictionaryArray<Int8Type> = texts.iter().copied().collect();
        let arrays: [&dyn Array; 4] =
            [&StringArray::from(texts.clone()), &LargeStringArray::from(texts), &views, &dictionary];
        for array in arrays {
            assert_eq!(vocabulary.indices(array), wanted, "{}", array.data_type());
        }
        assert_eq!(vocabulary.indices(&views.slice(3, 2)), [first + 3, first]);
        let nothing: DictionaryArray<Int8Type> = vec![None::<&str>; 2].into_iter().collect();
        assert_eq!(vocabulary.indices(&nothing), [Encoding::NULL; 2]);
    }
}
