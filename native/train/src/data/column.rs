//! What an Arrow array holds, read as numbers, texts or vectors.

use std::borrow::Cow;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
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
                conversion(f.data_type()).map(|_| Kind::Vector)
            }
            other => conversion(other).map(|_| Kind::Number),
        }
    }
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

/// All values of a column of numbers, borrowed where they are; NULL becomes NaN. None where there are no numbers.
pub(crate) fn numbers(array: &dyn Array) -> Option<Cow<'_, [f64]>> {
    if *array.data_type() == DataType::Float64 && array.null_count() == 0 {
        return Some(Cow::Borrowed(array.as_primitive::<Float64Type>().values()));
    }
    let mut values = conversion(array.data_type())?(array);
    blank(array, &mut values);
    Some(Cow::Owned(values))
}

/// Reads the values of an array, those of NULLs whatever they are.
type Conversion = Box<dyn Fn(&dyn Array) -> Vec<f64>>;

/// How the values of a type become f64; none for types that hold no numbers.
fn conversion(data_type: &DataType) -> Option<Conversion> {
    fn of<T: ArrowPrimitiveType>(to: impl Fn(T::Native) -> f64 + 'static) -> Option<Conversion> {
        Some(Box::new(move |array| array.as_primitive::<T>().values().iter().map(|v| to(*v)).collect()))
    }
    let unit = |scale: i8| 10f64.powi(i32::from(scale));
    match data_type {
        DataType::Float64 => of::<Float64Type>(|v| v),
        DataType::Float32 => of::<Float32Type>(f64::from),
        DataType::Float16 => of::<Float16Type>(f64::from),
        DataType::Int8 => of::<Int8Type>(f64::from),
        DataType::Int16 => of::<Int16Type>(f64::from),
        DataType::Int32 => of::<Int32Type>(f64::from),
        DataType::Int64 => of::<Int64Type>(|v| v as f64),
        DataType::UInt8 => of::<UInt8Type>(f64::from),
        DataType::UInt16 => of::<UInt16Type>(f64::from),
        DataType::UInt32 => of::<UInt32Type>(f64::from),
        DataType::UInt64 => of::<UInt64Type>(|v| v as f64),
        DataType::Decimal32(_, scale) => {
            let unit = unit(*scale);
            of::<Decimal32Type>(move |v| f64::from(v) / unit)
        }
        DataType::Decimal64(_, scale) => {
            let unit = unit(*scale);
            of::<Decimal64Type>(move |v| v as f64 / unit)
        }
        DataType::Decimal128(_, scale) => {
            let unit = unit(*scale);
            of::<Decimal128Type>(move |v| v as f64 / unit)
        }
        DataType::Boolean => Some(Box::new(|array| {
            array.as_boolean().values().iter().map(|v| f64::from(u8::from(v))).collect()
        })),
        _ => None,
    }
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
pub(crate) fn texts<'a>(array: &'a dyn Array, visit: &mut dyn FnMut(Option<&'a str>)) {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().for_each(visit),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().for_each(visit),
        DataType::Utf8View => array.as_string_view().iter().for_each(visit),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().is_empty() {
                // All rows are NULL; `normalized_keys` wants a value to point at.
                return (0..array.len()).for_each(|_| visit(None));
            }
            let mut values: Vec<Option<&str>> = Vec::with_capacity(dictionary.values().len());
            texts(dictionary.values(), &mut |v| values.push(v));
            for (row, key) in dictionary.normalized_keys().into_iter().enumerate() {
                visit(if array.is_null(row) { None } else { values[key] });
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
    numbers(values).map(|values| values.iter().map(|v| *v as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow_array::types::Int32Type;
    use arrow_array::{
        BooleanArray, Decimal32Array, Decimal64Array, Decimal128Array, DictionaryArray, FixedSizeListArray,
        Float64Array, Int64Array, LargeStringArray, ListArray, StringArray,
    };

    #[test]
    fn numbers_of_every_type_with_null_as_nan() {
        let read = |array: &dyn Array| numbers(array).unwrap().iter().map(f64::to_string).collect::<Vec<_>>();
        assert_eq!(read(&Float64Array::from(vec![Some(1.5), None])), ["1.5", "NaN"]);
        assert_eq!(read(&Int64Array::from(vec![Some(-7), None])), ["-7", "NaN"]);
        assert_eq!(read(&BooleanArray::from(vec![Some(true), None, Some(false)])), ["1", "NaN", "0"]);
        let decimals = Decimal128Array::from(vec![1234]).with_precision_and_scale(10, 2).unwrap();
        assert_eq!(read(&decimals), ["12.34"]);
        let decimals = Decimal64Array::from(vec![Some(-1234), None]).with_precision_and_scale(10, 1).unwrap();
        assert_eq!(read(&decimals), ["-123.4", "NaN"]);
        let decimals = Decimal32Array::from(vec![1234]).with_precision_and_scale(9, 3).unwrap();
        assert_eq!(read(&decimals), ["1.234"]);
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
        let nothing: DictionaryArray<Int32Type> = vec![None::<&str>, None].into_iter().collect();
        assert_eq!(read(&nothing), ["NULL", "NULL"]);
        let values: Arc<dyn Array> = Arc::new(StringArray::from(vec![Some("a"), None]));
        let null_in_values = DictionaryArray::<Int32Type>::new(vec![1, 0].into(), values);
        assert_eq!(read(&null_in_values), ["NULL", "a"]);
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
        assert_eq!(Kind::of(&DataType::Decimal256(40, 2)), None);
    }

    /// What counts as a number can be read as one, for every type that Arrow calls numeric.
    #[test]
    fn every_number_can_be_read() {
        let integers = [DataType::Int8, DataType::Int16, DataType::Int32, DataType::Int64];
        let unsigned = [DataType::UInt8, DataType::UInt16, DataType::UInt32, DataType::UInt64];
        let floats = [DataType::Float16, DataType::Float32, DataType::Float64, DataType::Boolean];
        let decimals = [DataType::Decimal32(9, 2), DataType::Decimal64(9, 2), DataType::Decimal128(9, 2)];
        let all = [integers.as_slice(), &unsigned, &floats, &decimals].concat();
        for data_type in all {
            assert_eq!(Kind::of(&data_type), Some(Kind::Number), "{data_type}");
            let one_null = arrow_array::new_null_array(&data_type, 1);
            assert!(numbers(&one_null).unwrap()[0].is_nan(), "{data_type}");
        }
    }
}
