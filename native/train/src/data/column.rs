//! What an Arrow array holds, read as numbers, texts or vectors.

use std::borrow::Cow;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use firesteel_error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a feature column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Number,
    Text,
    Vector,
}

impl Kind {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Kind::Number => "numbers",
            Kind::Text => "strings",
            Kind::Vector => "vectors",
        }
    }

    /// The kind of an Arrow type, if we read it.
    pub(crate) fn of(data_type: &DataType) -> Option<Kind> {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Kind::Text),
            DataType::Dictionary(_, values) => Kind::of(values).filter(|k| *k == Kind::Text),
            DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => {
                is_number(f.data_type()).then_some(Kind::Vector)
            }
            other => is_number(other).then_some(Kind::Number),
        }
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric() && !matches!(data_type, DataType::Decimal256(..))
        || *data_type == DataType::Boolean
}

/// The column of a name.
///
/// # Errors
/// `InvalidData` with the names there are.
pub(crate) fn find<'a>(batch: &'a RecordBatch, role: &str, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
        Error::data(format!("{role} column '{name}' does not exist; there are {}", names.join(", ")))
    })
}

/// All values of a column of numbers; NULL becomes NaN.
pub(crate) fn numbers(array: &dyn Array) -> Option<Vec<f64>> {
    fn of<T: ArrowPrimitiveType>(array: &dyn Array, to: impl Fn(T::Native) -> f64) -> Vec<f64> {
        let array = array.as_primitive::<T>();
        let mut values: Vec<f64> = array.values().iter().map(|v| to(*v)).collect();
        blank(array, &mut values);
        values
    }
    Some(match array.data_type() {
        DataType::Float64 => of::<Float64Type>(array, |v| v),
        DataType::Float32 => of::<Float32Type>(array, f64::from),
        DataType::Float16 => of::<Float16Type>(array, f64::from),
        DataType::Int8 => of::<Int8Type>(array, f64::from),
        DataType::Int16 => of::<Int16Type>(array, f64::from),
        DataType::Int32 => of::<Int32Type>(array, f64::from),
        DataType::Int64 => of::<Int64Type>(array, |v| v as f64),
        DataType::UInt8 => of::<UInt8Type>(array, f64::from),
        DataType::UInt16 => of::<UInt16Type>(array, f64::from),
        DataType::UInt32 => of::<UInt32Type>(array, f64::from),
        DataType::UInt64 => of::<UInt64Type>(array, |v| v as f64),
        DataType::Decimal128(_, scale) => {
            let unit = 10f64.powi(i32::from(*scale));
            of::<Decimal128Type>(array, |v| v as f64 / unit)
        }
        DataType::Boolean => {
            let array = array.as_boolean();
            let mut values = array.values().iter().map(|v| f64::from(u8::from(v))).collect::<Vec<f64>>();
            blank(array, &mut values);
            values
        }
        _ => return None,
    })
}

/// Overwrites the values of NULLs, which may be anything.
fn blank(array: &dyn Array, values: &mut [f64]) {
    if array.null_count() > 0 {
        for (row, value) in values.iter_mut().enumerate() {
            if array.is_null(row) {
                *value = f64::NAN;
            }
        }
    }
}

/// Calls `visit` with each text, or none for NULL.
pub(crate) fn texts(array: &dyn Array, visit: &mut dyn FnMut(Option<&str>)) {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().for_each(visit),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().for_each(visit),
        DataType::Utf8View => array.as_string_view().iter().for_each(visit),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let mut values: Vec<Option<String>> = Vec::with_capacity(dictionary.values().len());
            texts(dictionary.values(), &mut |v| values.push(v.map(str::to_owned)));
            let keys = dictionary.normalized_keys();
            for (row, key) in keys.iter().enumerate() {
                let value = if array.is_null(row) { None } else { values.get(*key).cloned().flatten() };
                visit(value.as_deref());
            }
        }
        _ => {}
    }
}

/// A column of vectors: the elements of all rows and where each row's are.
pub(crate) struct Vectors<'a> {
    array: &'a dyn Array,
    values: Cow<'a, [f32]>,
    bounds: Bounds<'a>,
}

enum Bounds<'a> {
    Small(&'a [i32]),
    Large(&'a [i64]),
    Fixed(usize),
}

impl<'a> Vectors<'a> {
    /// Reads a column whose kind is [`Kind::Vector`].
    pub(crate) fn new(array: &'a dyn Array) -> Option<Vectors<'a>> {
        let (values, bounds) = match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                (list.values(), Bounds::Small(list.offsets()))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                (list.values(), Bounds::Large(list.offsets()))
            }
            DataType::FixedSizeList(_, size) => {
                (array.as_fixed_size_list().values(), Bounds::Fixed(usize::try_from(*size).ok()?))
            }
            _ => return None,
        };
        Some(Vectors { array, values: elements(values)?, bounds })
    }

    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        let range = match self.bounds {
            Bounds::Small(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
            Bounds::Large(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
            Bounds::Fixed(size) => row * size..(row + 1) * size,
        };
        &self.values[range]
    }
}

/// Elements as f32, borrowed where they are; NULL becomes NaN.
fn elements(values: &ArrayRef) -> Option<Cow<'_, [f32]>> {
    if *values.data_type() == DataType::Float32 && values.null_count() == 0 {
        return Some(Cow::Borrowed(values.as_primitive::<Float32Type>().values()));
    }
    numbers(values).map(|values| values.into_iter().map(|v| v as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow_array::types::Int32Type;
    use arrow_array::{
        BooleanArray, Decimal128Array, DictionaryArray, FixedSizeListArray, Float64Array, Int64Array,
        LargeStringArray, ListArray, StringArray,
    };

    #[test]
    fn numbers_of_every_type_with_null_as_nan() {
        let read = |array: &dyn Array| numbers(array).unwrap().iter().map(f64::to_string).collect::<Vec<_>>();
        assert_eq!(read(&Float64Array::from(vec![Some(1.5), None])), ["1.5", "NaN"]);
        assert_eq!(read(&Int64Array::from(vec![Some(-7), None])), ["-7", "NaN"]);
        assert_eq!(read(&BooleanArray::from(vec![Some(true), None, Some(false)])), ["1", "NaN", "0"]);
        let decimals = Decimal128Array::from(vec![1234]).with_precision_and_scale(10, 2).unwrap();
        assert_eq!(read(&decimals), ["12.34"]);
        assert!(numbers(&StringArray::from(vec!["1"])).is_none());
    }

    #[test]
    fn texts_of_every_type() {
        let read = |array: &dyn Array| {
            let mut all = Vec::new();
            texts(array, &mut |t| all.push(t.unwrap_or("NULL").to_owned()));
            all
        };
        assert_eq!(read(&StringArray::from(vec![Some("a"), None])), ["a", "NULL"]);
        assert_eq!(read(&LargeStringArray::from(vec!["", "b"])), ["", "b"]);
        let dictionary: DictionaryArray<Int32Type> =
            vec![Some("x"), None, Some("y"), Some("x")].into_iter().collect();
        assert_eq!(read(&dictionary), ["x", "NULL", "y", "x"]);
    }

    #[test]
    fn vectors_of_every_type_and_sliced() {
        let list = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
            Some(vec![Some(1.0), Some(2.0)]),
            None,
            Some(vec![Some(3.0), None]),
        ]);
        let vectors = Vectors::new(&list).unwrap();
        assert_eq!(vectors.row(0), [1.0, 2.0]);
        assert!(vectors.is_null(1));
        assert!(vectors.row(2)[1].is_nan());
        let sliced = list.slice(2, 1);
        assert_eq!(Vectors::new(&sliced).unwrap().row(0)[0], 3.0);
        let fixed = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
            vec![Some(vec![Some(1), Some(2)]), Some(vec![Some(3), Some(4)])],
            2,
        );
        let fixed: Arc<dyn Array> = Arc::new(fixed.slice(1, 1));
        assert_eq!(Vectors::new(&fixed).unwrap().row(0), [3.0, 4.0]);
    }

    #[test]
    fn kinds() {
        let list = |t| DataType::List(Arc::new(arrow_schema::Field::new("e", t, true)));
        assert_eq!(Kind::of(&DataType::Boolean), Some(Kind::Number));
        assert_eq!(Kind::of(&list(DataType::Float64)), Some(Kind::Vector));
        assert_eq!(Kind::of(&list(DataType::Utf8)), None);
        assert_eq!(Kind::of(&DataType::Date32), None);
    }
}
