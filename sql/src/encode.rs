//! From the columns of a query to those that the training loop reads.
//!
//! The loop knows numbers, strings and vectors of numbers. Here dates become numbers, structs their fields, lists of
//! strings vectors of zeros and ones, and the label of a classifier the index of its class.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, RecordBatch,
    RecordBatchOptions,
};
use arrow::compute::{DatePart, cast, date_part, filter_record_batch, is_not_null};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit, TimestampSecondType};
use datafusion::common::{DataFusionError, Result, exec_err, plan_err};
use serde::{Deserialize, Serialize};

use crate::about::{About, Label, read_type};
use crate::profile::Profile;

/// A column that a model reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Its name; a field of a struct has the struct's name before it, `address.city`.
    pub column: String,
    /// The column that it is a field of, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Its Arrow type in the training query, as [`DataType`] prints it.
    pub data_type: String,
    /// How it is read.
    pub kind: FeatureKind,
}

/// How a column is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FeatureKind {
    /// As it is.
    Number,
    /// As it is: a category.
    Text,
    /// As it is.
    Vector {
        /// Elements of a row; found in training.
        width: Option<usize>,
    },
    /// Seconds since 1970, year, month, day of the week and, where it has one, hour, in UTC.
    Time {
        /// Whether it has an hour.
        hour: bool,
    },
    /// A list of strings: 1 for each of these that is in it.
    Words {
        /// From the most frequent on.
        values: Vec<String>,
    },
}

/// The parts of a time that are read, and the names of their columns.
const TIME_PARTS: [(&str, Option<DatePart>); 5] = [
    ("seconds", None),
    ("year", Some(DatePart::Year)),
    ("month", Some(DatePart::Month)),
    ("weekday", Some(DatePart::DayOfWeekSunday0)),
    ("hour", Some(DatePart::Hour)),
];

/// Most distinct strings of a column of lists.
const MOST_WORDS: usize = 1000;

impl FeatureKind {
    /// How a column of this type is read.
    pub fn of(column: &str, data_type: &DataType) -> Result<FeatureKind> {
        let refused = || {
            plan_err!(
                "column '{column}': {data_type} is not supported as a feature; leave it out, or cast it"
            )
        };
        Ok(match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => FeatureKind::Text,
            DataType::Dictionary(_, values) if is_text(values) => FeatureKind::Text,
            DataType::Boolean => FeatureKind::Number,
            DataType::Decimal256(..) => return refused(),
            number if number.is_numeric() => FeatureKind::Number,
            DataType::Date32 | DataType::Date64 => FeatureKind::Time { hour: false },
            DataType::Timestamp(..) => FeatureKind::Time { hour: true },
            DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => match f.data_type()
            {
                text if is_text(text) => FeatureKind::Words { values: Vec::new() },
                number if number.is_numeric() || *number == DataType::Boolean => {
                    let width = match data_type {
                        DataType::FixedSizeList(_, n) => usize::try_from(*n).ok(),
                        _ => None,
                    };
                    FeatureKind::Vector { width }
                }
                _ => return refused(),
            },
            _ => return refused(),
        })
    }

    /// Whether a column of the type `found` is read as one that was trained on.
    pub(crate) fn reads(&self, column: &str, found: &DataType) -> bool {
        match (FeatureKind::of(column, found), self) {
            _ if *found == DataType::Null => true,
            (Ok(FeatureKind::Vector { width: Some(found) }), FeatureKind::Vector { width: Some(width) }) => {
                found == *width
            }
            (Ok(found), kind) => std::mem::discriminant(&found) == std::mem::discriminant(kind),
            (Err(_), _) => false,
        }
    }

    /// The columns that the training loop reads for `column`.
    pub fn columns(&self, column: &str) -> Vec<String> {
        match self {
            FeatureKind::Time { hour } => {
                let parts = if *hour { TIME_PARTS.len() } else { TIME_PARTS.len() - 1 };
                TIME_PARTS[..parts].iter().map(|(part, _)| format!("{column}.{part}")).collect()
            }
            _ => vec![column.to_owned()],
        }
    }

    /// One word, for people.
    pub fn text(&self) -> &'static str {
        match self {
            FeatureKind::Number => "number",
            FeatureKind::Text => "category",
            FeatureKind::Vector { .. } => "vector",
            FeatureKind::Time { .. } => "time",
            FeatureKind::Words { .. } => "multi-hot",
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

impl Feature {
    /// The features of a query's columns, the named ones left out; structs become their fields.
    ///
    /// # Errors
    /// `Plan` naming a column of a type that is no feature.
    pub fn of_schema(schema: &Schema, left_out: &[&str]) -> Result<Vec<Feature>> {
        let mut features = Vec::new();
        for field in schema.fields().iter().filter(|f| !left_out.contains(&f.name().as_str())) {
            Feature::of_field(field.name().clone(), field.name(), field.data_type(), &mut features)?;
        }
        if features.is_empty() {
            return plan_err!("the query has no feature columns: every column is the label or left out");
        }
        Ok(features)
    }

    fn of_field(column: String, root: &str, data_type: &DataType, features: &mut Vec<Feature>) -> Result<()> {
        if let DataType::Struct(fields) = data_type {
            let mut of = |f: &Arc<Field>| {
                Feature::of_field(format!("{column}.{}", f.name()), root, f.data_type(), features)
            };
            return fields.iter().try_for_each(&mut of);
        }
        let kind = FeatureKind::of(&column, data_type)?;
        let root = (column != root).then(|| root.to_owned());
        features.push(Feature { column, root, data_type: data_type.to_string(), kind });
        Ok(())
    }

    /// The column of a query that it is in.
    pub fn root(&self) -> &str {
        self.root.as_deref().unwrap_or(&self.column)
    }

    /// Its array in a batch.
    pub(crate) fn find(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        if let Some(array) = batch.column_by_name(&self.column) {
            return Ok(array.clone());
        }
        let mut steps = self.column.split('.');
        let mut array = steps.next().and_then(|root| batch.column_by_name(root)).cloned();
        for step in steps {
            array = array.and_then(|a| field_of(&a, step));
        }
        array.map_or_else(|| exec_err!("there is no column '{}'", self.column), Ok)
    }

    /// Checks a column of a query that is to be scored.
    ///
    /// # Errors
    /// `Plan` naming the column, what was found and what was expected.
    pub fn check(&self, model: &str, schema: &Schema) -> Result<()> {
        let found = match find_type(schema, &self.column) {
            Some(found) => found,
            None => {
                let have: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                return plan_err!(
                    "{model}: missing column '{}' ({}); have: {}",
                    self.column,
                    self.data_type,
                    have.join(", ")
                );
            }
        };
        if self.kind.reads(&self.column, &found) {
            return Ok(());
        }
        plan_err!("{model}: column '{}' is {found}, the model was trained on {}", self.column, self.data_type)
    }

    /// Adds its columns as the training loop reads them.
    fn encode(&self, batch: &RecordBatch, out: &mut Vec<(Field, ArrayRef)>) -> Result<()> {
        let array = self.find(batch)?;
        // An untyped NULL is one of the type that was trained on.
        let array = match array.data_type() {
            DataType::Null => cast(&array, &read_type(&self.column, &self.data_type)?)?,
            _ => array,
        };
        match &self.kind {
            FeatureKind::Time { .. } => {
                let array = in_utc(&array)?;
                let names = self.kind.columns(&self.column);
                for (name, (_, part)) in names.into_iter().zip(TIME_PARTS) {
                    out.push((Field::new(name, DataType::Float64, true), time_part(&array, part)?));
                }
            }
            FeatureKind::Words { values } => {
                let hot = multi_hot(&array, values)?;
                out.push((Field::new(&self.column, hot.data_type().clone(), false), hot));
            }
            _ => out.push((Field::new(&self.column, array.data_type().clone(), true), array)),
        }
        Ok(())
    }
}

fn field_of(array: &ArrayRef, name: &str) -> Option<ArrayRef> {
    let array = array.as_struct_opt()?;
    let field = array.column_by_name(name)?;
    // A NULL struct is a NULL of each field.
    let nulls = arrow::buffer::NullBuffer::union(array.nulls(), field.nulls());
    let data = field.to_data().into_builder().nulls(nulls).build().ok()?;
    Some(arrow::array::make_array(data))
}

/// The type of a column, or of a field of a struct.
pub(crate) fn find_type(schema: &Schema, column: &str) -> Option<DataType> {
    if let Ok(field) = schema.field_with_name(column) {
        return Some(field.data_type().clone());
    }
    let mut steps = column.split('.');
    let mut found = schema.field_with_name(steps.next()?).ok()?.data_type().clone();
    for step in steps {
        let DataType::Struct(fields) = &found else { return None };
        found = fields.iter().find(|f| f.name() == step)?.data_type().clone();
    }
    Some(found)
}

/// The same instants without their zone, whose clock would decide on the parts.
fn in_utc(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Timestamp(unit, Some(_)) => cast(array, &DataType::Timestamp(*unit, None))?,
        _ => array.clone(),
    })
}

fn time_part(array: &ArrayRef, part: Option<DatePart>) -> Result<ArrayRef> {
    let part = match part {
        Some(part) => date_part(array, part)?,
        None => {
            let seconds = cast(array, &DataType::Timestamp(TimeUnit::Second, None))?;
            let seconds = seconds.as_primitive::<TimestampSecondType>();
            return Ok(Arc::new(seconds.unary::<_, Float64Type>(|s| s as f64)));
        }
    };
    Ok(cast(&part, &DataType::Float64)?)
}

/// One row of zeros and ones for each list.
fn multi_hot(array: &ArrayRef, values: &[String]) -> Result<ArrayRef> {
    let places: HashMap<&str, usize> = values.iter().enumerate().map(|(i, v)| (v.as_str(), i)).collect();
    let width = values.len().max(1);
    let mut hot = vec![0.0f32; array.len() * width];
    each_list(array, &mut |row, words| {
        for word in words.iter().flatten() {
            if let Some(place) = places.get(word) {
                hot[row * width + place] = 1.0;
            }
        }
    })?;
    let field = Arc::new(Field::new_list_field(DataType::Float32, false));
    let width = i32::try_from(width).map_err(|e| DataFusionError::External(e.into()))?;
    Ok(Arc::new(FixedSizeListArray::try_new(field, width, Arc::new(Float32Array::from(hot)), None)?))
}

/// Calls `visit` with the strings of each list that is not NULL.
fn each_list(array: &ArrayRef, visit: &mut dyn FnMut(usize, &arrow::array::StringArray)) -> Result<()> {
    let list = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let lists = cast(array, &DataType::List(list))?;
    let lists = lists.as_list::<i32>();
    for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
        visit(row, lists.value(row).as_string::<i32>());
    }
    Ok(())
}

/// What is learned of the rows before they can be encoded.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Vocabularies {
    /// Of the features that are lists of strings: how many lists each is in.
    words: BTreeMap<usize, HashMap<String, u64>>,
    /// The classes that were seen, and how often.
    classes: HashMap<String, u64>,
    /// One a feature.
    pub(crate) profiles: Vec<Profile>,
    /// Rows whose label is NULL.
    pub(crate) unlabelled: u64,
    /// All rows.
    pub(crate) rows: u64,
}

impl Vocabularies {
    /// Takes a batch in.
    pub(crate) fn push(
        &mut self,
        batch: &RecordBatch,
        features: &[Feature],
        label: Option<&str>,
        classifier: bool,
    ) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.profiles.resize_with(features.len(), Profile::default);
        for (i, feature) in features.iter().enumerate() {
            self.profiles[i].push(feature, batch)?;
            if !matches!(feature.kind, FeatureKind::Words { .. }) {
                continue;
            }
            let counts = self.words.entry(i).or_default();
            each_list(&feature.find(batch)?, &mut |_, words| {
                for word in words.iter().flatten() {
                    *counts.entry(word.to_owned()).or_default() += 1;
                }
            })?;
        }
        let Some(label) = label else { return Ok(()) };
        let labels = label_column(batch, label)?;
        self.unlabelled += labels.null_count() as u64;
        if classifier {
            let labels = cast(&labels, &DataType::Utf8)?;
            for class in labels.as_string::<i32>().iter().flatten() {
                match self.classes.get_mut(class) {
                    Some(count) => *count += 1,
                    None => _ = self.classes.insert(class.to_owned(), 1),
                }
            }
        }
        Ok(())
    }

    /// Takes what another part learned in.
    pub(crate) fn merge(&mut self, other: Vocabularies) {
        self.rows += other.rows;
        self.unlabelled += other.unlabelled;
        self.profiles.resize_with(self.profiles.len().max(other.profiles.len()), Profile::default);
        for (mine, theirs) in self.profiles.iter_mut().zip(other.profiles) {
            mine.merge(theirs);
        }
        for (class, count) in other.classes {
            *self.classes.entry(class).or_default() += count;
        }
        for (i, counts) in other.words {
            let mine = self.words.entry(i).or_default();
            for (word, count) in counts {
                *mine.entry(word).or_default() += count;
            }
        }
    }

    /// Fills in the vocabularies of features.
    pub(crate) fn settle(&mut self, features: &mut [Feature]) {
        for (i, counts) in std::mem::take(&mut self.words) {
            let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
            counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            counts.truncate(MOST_WORDS);
            features[i].kind =
                FeatureKind::Words { values: counts.into_iter().map(|(word, _)| word).collect() };
        }
    }

    /// The classes in the order of the network's outputs: as numbers where they are, else as text.
    pub(crate) fn classes(&self) -> Vec<(String, u64)> {
        let mut classes: Vec<(String, u64)> = self.classes.iter().map(|(c, n)| (c.clone(), *n)).collect();
        let number = |(class, _): &(String, u64)| class.parse::<f64>().ok();
        if classes.iter().all(|c| number(c).is_some()) {
            classes.sort_by(|a, b| {
                number(a).unwrap_or(0.0).total_cmp(&number(b).unwrap_or(0.0)).then_with(|| a.0.cmp(&b.0))
            });
        } else {
            classes.sort();
        }
        classes
    }
}

fn label_column(batch: &RecordBatch, label: &str) -> Result<ArrayRef> {
    batch.column_by_name(label).cloned().map_or_else(|| exec_err!("there is no label column '{label}'"), Ok)
}

/// The column of the training loop that says which rows are held out.
pub(crate) const HELD_OUT: &str = " held out";

/// Encodes batches of a query.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    features: Vec<Feature>,
    label: Option<Label>,
    /// The index of each class.
    classes: HashMap<String, f64>,
}

impl Encoder {
    pub(crate) fn new(about: &About) -> Encoder {
        let classes = about.classes().unwrap_or_default().iter().enumerate();
        let classes = classes.map(|(i, class)| (class.clone(), i as f64)).collect();
        Encoder { features: about.features.clone(), label: about.label.clone(), classes }
    }

    /// The features of a batch, as the training loop reads them.
    pub(crate) fn features(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.features.len());
        for feature in &self.features {
            feature.encode(batch, &mut columns)?;
        }
        self.batch(columns, batch.num_rows())
    }

    /// The rows that have a label, with it, or all where none is learned; `extra` columns go along.
    pub(crate) fn labelled(&self, batch: &RecordBatch, extra: Vec<(Field, ArrayRef)>) -> Result<RecordBatch> {
        let mut columns = extra;
        for feature in &self.features {
            feature.encode(batch, &mut columns)?;
        }
        let Some(label) = &self.label else { return self.batch(columns, batch.num_rows()) };
        let labels = self.labels(batch)?;
        columns.push((Field::new(&label.column, DataType::Float64, true), Arc::new(labels)));
        let all = self.batch(columns, batch.num_rows())?;
        let labels = all.column(all.num_columns() - 1);
        if labels.null_count() == 0 {
            return Ok(all);
        }
        let keep: BooleanArray = is_not_null(labels)?;
        Ok(filter_record_batch(&all, &keep)?)
    }

    /// The label of each row: the index of its class, or a number; NULL where there is none.
    ///
    /// # Errors
    /// `Execution` naming a class that the model does not know.
    pub(crate) fn labels(&self, batch: &RecordBatch) -> Result<Float64Array> {
        let Some(label) = &self.label else { return plan_err!("the model has no label") };
        let labels = label_column(batch, &label.column)?;
        if label.classes.is_none() {
            let numbers = cast(&labels, &DataType::Float64)?;
            return Ok(numbers.as_primitive::<Float64Type>().clone());
        }
        // Spark's classes are doubles: 1.0 is the class 1.
        let labels = cast(&cast(&labels, &label.data_type()?)?, &DataType::Utf8)?;
        let index = |class: Option<&str>| match class {
            None => Ok(None),
            Some(class) => match self.classes.get(class) {
                Some(index) => Ok(Some(*index)),
                None => exec_err!(
                    "label '{}' has the class '{class}', which the model does not know (classes: {})",
                    label.column,
                    label.classes.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ")
                ),
            },
        };
        labels.as_string::<i32>().iter().map(index).collect()
    }

    fn batch(&self, columns: Vec<(Field, ArrayRef)>, rows: usize) -> Result<RecordBatch> {
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }
}
