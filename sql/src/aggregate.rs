//! `nn_fit`, an aggregate that trains a model of the rows of each group, and `nn_apply`, which predicts with it.
//!
//! A group's rows are gathered, put into an order that does not depend on partitions, and trained on as `CREATE MODEL` with
//! one worker does. A model is a value: the files of a model as an Arrow stream of names and bytes.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow::compute::{
    cast, concat, concat_batches, filter_record_batch, is_not_null, take, take_record_batch,
};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use firesteel_comm::Cancel;
use firesteel_train::Model;
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use crate::about::About;
use crate::create::about;
use crate::encode::{FeatureKind, Vocabularies};
use crate::error::outside;
use crate::fit::{Fit, Fitted};
use crate::import::ABOUT;
use crate::loaded::LoadedModel;
use crate::name::ModelName;
use crate::options::ModelOptions;
use crate::pack::{pack, stream, unpack};
use crate::parse::{CreateModel, ModelOption, OptionValue, Source};
use crate::spec::TrainSpec;
use crate::spool::{Reading, Spool};

/// The aggregate.
pub(crate) const FIT: &str = "nn_fit";

/// Options of `CREATE MODEL` that a group has no use for.
const STRAY: [&str; 14] = [
    "cache",
    "checkpoint_every",
    "data_split_col",
    "description",
    "device",
    "exclude_cols",
    "feature_cols",
    "input_label_cols",
    "labels",
    "precision",
    "sample_weight_col",
    "sync",
    "warm_start",
    "workers",
];

/// Models that [`Apply`] keeps in memory.
const KEPT: usize = 256;

/// `nn_fit(label, feature, .., '{"model_type": "logistic_reg", ..}')`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NnFit {
    signature: Signature,
}

/// The aggregate function.
pub(crate) fn fit() -> AggregateUDF {
    AggregateUDF::new_from_impl(NnFit { signature: Signature::variadic_any(Volatility::Immutable) })
}

/// Checks the options of a call before a row is read.
///
/// # Errors
/// `Plan` naming the option.
pub(crate) fn check(call: &AggregateFunction) -> Result<()> {
    if call.func.name() != FIT {
        return Ok(());
    }
    if call.params.distinct {
        return plan_err!("{FIT} does not know DISTINCT; put it into the query");
    }
    match call.params.args.last() {
        Some(Expr::Literal(options, _)) => spec(options, "label").map(|_| ()),
        _ => plan_err!(
            "{FIT}: the last argument is the options as a string constant, '{{\"model_type\": ..}}'"
        ),
    }
}

/// The training that options ask for.
fn spec(options: &ScalarValue, label: &str) -> Result<Arc<TrainSpec>> {
    let Some(Some(json)) = options.try_as_str() else {
        return plan_err!("{FIT}: the last argument is the options as a string constant, got {options}");
    };
    let given: serde_json::Map<String, serde_json::Value> = match serde_json::from_str(json) {
        Ok(given) => given,
        Err(e) => return plan_err!("{FIT}: the options are no JSON object: {e}"),
    };
    let mut options = Vec::new();
    for (name, value) in given {
        let name = name.to_lowercase();
        if STRAY.contains(&name.as_str()) {
            return plan_err!("{FIT}: {name} is for CREATE MODEL");
        }
        options.push(ModelOption::new(name, option(&value)?));
    }
    let learns = |option: &ModelOption| match &option.value {
        OptionValue::String(name) if option.name == "model_type" => {
            !["autoencoder", "transform_only"].contains(&name.to_lowercase().as_str())
        }
        _ => true,
    };
    if let Some(option) = options.iter().find(|option| !learns(option)) {
        return plan_err!("{FIT} learns a label; model_type {} does not", option.value);
    }
    let labels = OptionValue::Array(vec![OptionValue::String(label.to_owned())]);
    options.push(ModelOption::new("input_label_cols", labels));
    let read = ModelOptions::read(&options).map_err(|e| e.context(FIT))?;
    let create = CreateModel {
        or_replace: false,
        if_not_exists: false,
        name: ModelName::bare(FIT),
        transform: None,
        options,
        source: Source::Import(String::new()),
        sql: String::new(),
    };
    let spec = TrainSpec::new(&create, read)?;
    Ok(Arc::new(spec))
}

fn option(value: &serde_json::Value) -> Result<OptionValue> {
    use serde_json::Value;
    Ok(match value {
        Value::Bool(flag) => OptionValue::Bool(*flag),
        Value::Number(number) => OptionValue::Number(number.to_string()),
        Value::String(text) => OptionValue::String(text.clone()),
        Value::Array(values) => OptionValue::Array(values.iter().map(option).collect::<Result<_>>()?),
        other => return plan_err!("{FIT}: {other} is no value of an option"),
    })
}

impl AggregateUDFImpl for NnFit {
    fn name(&self) -> &str {
        FIT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.len() {
            0..3 => {
                plan_err!("{FIT} expects a label, features and options, got {} arguments", arguments.len())
            }
            // A view: whoever joins models to rows copies 16 bytes a row.
            _ => Ok(DataType::BinaryView),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("{FIT} does not know DISTINCT; put it into the query");
        }
        let Some((options, columns)) = args.exprs.split_last() else {
            return internal_err!("{FIT} without arguments");
        };
        let Some(options) = options.downcast_ref::<Literal>() else {
            return plan_err!("{FIT}: the options are not constant");
        };
        let names = names(columns);
        let fields = names.iter().zip(args.expr_fields);
        let fields: Vec<Field> =
            fields.map(|(name, field)| Field::new(name, field.data_type().clone(), true)).collect();
        let spec = spec(options.value(), &names[0])?;
        Ok(Box::new(Gathered { spec, schema: Arc::new(Schema::new(fields)), batches: Vec::new(), bytes: 0 }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[rows]", args.name), DataType::LargeBinary, true))])
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The label, and each feature by its column, or by its place where it is none or has come before.
fn names(columns: &[Arc<dyn PhysicalExpr>]) -> Vec<String> {
    let mut names: Vec<String> = vec!["label".to_owned()];
    for (i, expr) in columns.iter().enumerate().skip(1) {
        let column = expr.downcast_ref::<Column>().map(|column| column.name().to_owned());
        let free = |name: &String| !names.contains(name);
        let mut name = column.filter(free).unwrap_or_else(|| format!("f{i}"));
        while names.contains(&name) {
            name.push('_');
        }
        names.push(name);
    }
    names
}

/// The rows of a group.
#[derive(Debug)]
struct Gathered {
    spec: Arc<TrainSpec>,
    /// The label, then the features.
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl Gathered {
    fn push(&mut self, batch: RecordBatch) {
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
    }

    /// All rows, in an order of their values: where they came from does not count.
    fn rows(&self) -> Result<RecordBatch> {
        let rows = concat_batches(&self.schema, &self.batches)?;
        let fields = self.schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
        let keys = RowConverter::new(fields)?.convert_columns(rows.columns())?;
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        order.sort_unstable_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)));
        Ok(take_record_batch(&rows, &UInt32Array::from(order))?)
    }

    /// The rows that the training loop would not skip.
    fn trained_on(&self, about: &About) -> Result<RecordBatch> {
        let mut rows = self.rows()?;
        if self.spec.recipe.params.get("handle_invalid").is_none_or(|handling| handling != "skip") {
            return Ok(rows);
        }
        for feature in &about.features {
            let column = feature.find(&rows)?;
            let kept = match feature.kind {
                FeatureKind::Number => {
                    let numbers = cast(&column, &DataType::Float64)?;
                    BooleanArray::from_unary(numbers.as_primitive::<Float64Type>(), f64::is_finite)
                }
                FeatureKind::Vector { .. } => finite_lists(&column)?,
                FeatureKind::Time { .. } => is_not_null(&column)?,
                FeatureKind::Text | FeatureKind::Words { .. } => continue,
            };
            rows = filter_record_batch(&rows, &kept)?;
        }
        Ok(rows)
    }

    /// None where there is nothing to learn: no row, no label, or only one class.
    fn fit(&self) -> Result<Option<Fitted>> {
        let about = about(&self.schema, &self.spec, &[])?;
        let rows = self.trained_on(&about)?;
        let mut seen = Vocabularies::default();
        seen.push(&rows, &about.features, self.spec.label.as_deref(), self.spec.classifier)?;
        let labelled = seen.rows - seen.unlabelled;
        if labelled == 0 || (self.spec.classifier && seen.classes().len() < 2) {
            return Ok(None);
        }
        // Nothing is spilled, so nothing is waited for; whoever calls from outside of a runtime gets one for the name.
        let alone = match Handle::try_current() {
            Ok(_) => None,
            Err(_) => Some(Builder::new_current_thread().build()?),
        };
        let handle = alone.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone());
        let (hear, _nobody) = tokio::sync::mpsc::unbounded_channel();
        let fit = Fit {
            spec: self.spec.clone(),
            about,
            spool: Spool::of(rows),
            seen,
            warm: None,
            checkpoints: None,
            workers: 1,
            gpus: Vec::new(),
            apart: None,
            reading: Reading { handle: handle.clone(), cancel: Cancel::new() },
            hear,
        };
        // Other tasks of this thread go on elsewhere.
        let fitted = match (alone, handle.runtime_flavor()) {
            (None, RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| fit.run()),
            _ => fit.run(),
        };
        fitted.map(Some)
    }
}

/// Which lists are there and have nothing but finite numbers.
fn finite_lists(column: &ArrayRef) -> Result<BooleanArray> {
    let lists = cast(column, &DataType::LargeList(Field::new_list_field(DataType::Float64, true).into()))?;
    let finite = |list: ArrayRef| {
        let numbers = list.as_primitive::<Float64Type>();
        numbers.null_count() == 0 && numbers.values().iter().all(|number| number.is_finite())
    };
    Ok(lists.as_list::<i64>().iter().map(|list| Some(list.is_some_and(finite))).collect())
}

impl Accumulator for Gathered {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let columns = values[..self.schema.fields().len()].to_vec();
        self.push(RecordBatch::try_new(self.schema.clone(), columns)?);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in states[0].as_binary::<i64>().iter().flatten() {
            for batch in StreamReader::try_new(state, None)? {
                self.push(batch?);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::LargeBinary(Some(stream(&self.schema, &self.batches)?))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let Some(Fitted { model: Some(model), about, .. }) = self.fit()? else {
            return Ok(ScalarValue::BinaryView(None));
        };
        Ok(ScalarValue::BinaryView(Some(packed(&model, &about)?)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes
    }
}

/// A model as a value.
fn packed(model: &Model, about: &About) -> Result<Vec<u8>> {
    let mut files = model.files().map_err(outside)?;
    let json = serde_json::to_vec(about).map_err(|e| DataFusionError::External(e.into()))?;
    files.push((ABOUT.to_owned(), json));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    pack(&files)
}

fn unpacked(bytes: &[u8]) -> Result<LoadedModel> {
    let broken = || DataFusionError::Execution("nn_apply: the value is no model that nn_fit made".into());
    let mut files = unpack(bytes).ok_or_else(broken)?;
    let at = files.iter().position(|(name, _)| name == ABOUT).ok_or_else(broken)?;
    let about: About = serde_json::from_slice(&files.swap_remove(at).1).map_err(|_| broken())?;
    LoadedModel::new(Model::from_files(&files).map_err(outside)?, Arc::new(about))
}

/// `nn_apply(model, feature, ..)`: the number that is predicted, or of two classes the probability of the second; and
/// `nn_apply_class(model, feature, ..)`: the class, as text.
#[derive(Debug)]
struct Apply {
    class: bool,
    signature: Signature,
    models: Mutex<HashMap<[u8; 32], Arc<LoadedModel>>>,
}

impl PartialEq for Apply {
    fn eq(&self, other: &Self) -> bool {
        self.class == other.class
    }
}

impl Eq for Apply {}

impl Hash for Apply {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.class.hash(state);
    }
}

/// The functions that use a model that is a value.
pub(crate) fn apply() -> [ScalarUDF; 2] {
    [false, true].map(|class| {
        let signature = Signature::variadic_any(Volatility::Immutable);
        ScalarUDF::new_from_impl(Apply { class, signature, models: Mutex::default() })
    })
}

impl Apply {
    fn model(&self, bytes: &[u8]) -> Result<Arc<LoadedModel>> {
        let key: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(model) = self.models.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(model.clone());
        }
        let model = Arc::new(unpacked(bytes)?);
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if models.len() >= KEPT {
            models.clear();
        }
        models.insert(key, model.clone());
        Ok(model)
    }

    /// What a model says of rows.
    fn answer(&self, model: &LoadedModel, features: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let about = model.about();
        let names = about.reads();
        if names.len() != features.len() {
            return exec_err!(
                "{}: the model was fitted to {} features ({}), got {}",
                self.name(),
                names.len(),
                names.join(", "),
                features.len()
            );
        }
        let fields =
            names.iter().zip(features).map(|(name, f)| Field::new(*name, f.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        about.check(self.name(), &schema)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(schema, features.to_vec(), &options)?;
        let predictions = model.predict(&batch)?;
        match (about.classes(), self.class) {
            (None, true) => exec_err!("nn_apply_class: the model is {about}, which has no classes"),
            (Some(classes), false) if classes.len() > 2 => {
                exec_err!("nn_apply: the model has {} classes; ask nn_apply_class", classes.len())
            }
            (Some(_), false) => {
                let shares = predictions.probabilities();
                let second = shares.chunks_exact(2).map(|row| f64::from(row[1])).collect();
                let nulls = crate::loaded::scored(&predictions);
                Ok(Arc::new(Float64Array::new(second, nulls)))
            }
            (_, true) => Ok(cast(&model.values(&predictions, None)?, &DataType::Utf8)?),
            (None, false) => model.values(&predictions, None),
        }
    }
}

impl ScalarUDFImpl for Apply {
    fn name(&self) -> &str {
        if self.class { "nn_apply_class" } else { "nn_apply" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Binary | DataType::BinaryView | DataType::LargeBinary | DataType::Null, _, ..] => {
                Ok(if self.class { DataType::Utf8 } else { DataType::Float64 })
            }
            [other, _, ..] => {
                plan_err!("{}: the first argument is a model that nn_fit made, got {other}", self.name())
            }
            _ => plan_err!("{} expects a model and features", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        // A model is long: one that stands for all rows is not written out for each.
        let (models, place): (_, fn(usize) -> usize) = match &args.args[0] {
            ColumnarValue::Scalar(model) => (model.to_array()?, |_| 0),
            ColumnarValue::Array(models) => (models.clone(), |row| row),
        };
        let models = cast(&models, &DataType::BinaryView)?;
        let models = models.as_binary_view();
        let features = args.args[1..].iter().map(|f| f.to_array(rows)).collect::<Result<Vec<_>>>()?;
        // The rows of each model. Rows that share its bytes are told by their views alone.
        let mut parts: Vec<(&[u8], Vec<u64>)> = Vec::new();
        let mut of_views: HashMap<u128, usize> = HashMap::new();
        for row in (0..rows).filter(|row| models.is_valid(place(*row))) {
            let part = *of_views.entry(models.views()[place(row)]).or_insert_with(|| {
                let model = models.value(place(row));
                parts.iter().position(|(other, _)| *other == model).unwrap_or_else(|| {
                    parts.push((model, Vec::new()));
                    parts.len() - 1
                })
            });
            parts[part].1.push(row as u64);
        }
        if let [(model, of_model)] = parts.as_slice()
            && of_model.len() == rows
        {
            return Ok(ColumnarValue::Array(self.answer(&*self.model(model)?, &features, rows)?));
        }
        // Where the answer of each row is among all; rows without a model have the NULL that is first.
        let mut answers: Vec<ArrayRef> = vec![new_null_array(args.return_field.data_type(), 1)];
        let mut places = vec![0u64; rows];
        let mut next = 1;
        for (model, of_model) in parts {
            let model = self.model(model)?;
            let picked = UInt64Array::from(of_model.clone());
            let features =
                features.iter().map(|f| Ok(take(f, &picked, None)?)).collect::<Result<Vec<_>>>()?;
            answers.push(self.answer(&model, &features, of_model.len())?);
            for row in of_model {
                places[row as usize] = next;
                next += 1;
            }
        }
        let answers: Vec<&dyn Array> = answers.iter().map(AsRef::as_ref).collect();
        let all = concat(&answers)?;
        Ok(ColumnarValue::Array(take(&all, &UInt64Array::from(places), None)?))
    }
}
