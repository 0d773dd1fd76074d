//! The scalar functions: one value a row, in any query of any DataFusion host.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, RecordBatchOptions, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::about::About;
use crate::loaded::{LoadedModel, scored};
use crate::models::Models;
use crate::name::ModelName;
use crate::parse::ModelRef;
use crate::store::VersionEntry;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    /// The class or number.
    Value,
    /// The probability of a class.
    Probability,
    /// Both, as a struct.
    Both,
}

/// `nn_predict_value('m', …)`, `nn_prob('m', 'class', …)` or `nn_predict('m', …)`.
#[derive(Clone, Debug)]
pub(crate) struct NnFunction {
    answer: Answer,
    models: Arc<Models>,
    signature: Signature,
    /// In a query that is about to run: its version, whatever becomes of the name.
    pinned: Option<Pinned>,
}

/// The version of a model that a query uses from its start to its end.
#[derive(Clone, Debug)]
struct Pinned {
    entry: Arc<VersionEntry>,
    /// Filled before the query runs where our planner plans it, else by the first batch.
    model: Arc<OnceLock<Arc<LoadedModel>>>,
}

/// The functions of a session's models.
pub(crate) fn scalar(models: &Arc<Models>) -> Vec<ScalarUDF> {
    of_all(models).into_iter().map(ScalarUDF::new_from_impl).collect()
}

/// One of each.
pub(crate) fn of_all(models: &Arc<Models>) -> Vec<NnFunction> {
    let function = |answer| {
        let signature = Signature::variadic_any(Volatility::Stable);
        NnFunction { answer, models: models.clone(), signature, pinned: None }
    };
    [Answer::Value, Answer::Probability, Answer::Both].map(function).into()
}

/// A model's name with its version, as the first argument of a function that has settled on it.
pub(crate) fn pinned(model: &ModelName, entry: &VersionEntry) -> ScalarValue {
    ScalarValue::from(ModelRef::encode(model, Some(entry.version)))
}

/// The function, if it is one of ours.
pub(crate) fn of_models(function: &ScalarUDF) -> Option<&NnFunction> {
    function.inner().downcast_ref::<NnFunction>()
}

impl Answer {
    fn name(self) -> &'static str {
        match self {
            Answer::Value => "nn_predict_value",
            Answer::Probability => "nn_prob",
            Answer::Both => "nn_predict",
        }
    }

    /// Arguments before the features.
    fn constants(self) -> usize {
        if self == Answer::Probability { 2 } else { 1 }
    }
}

impl PartialEq for NnFunction {
    fn eq(&self, other: &Self) -> bool {
        let path = |f: &NnFunction| f.pinned.as_ref().map(|pinned| pinned.entry.path.clone());
        self.answer == other.answer && Arc::ptr_eq(&self.models, &other.models) && path(self) == path(other)
    }
}

impl Eq for NnFunction {}

impl Hash for NnFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.answer.hash(state);
        Arc::as_ptr(&self.models).hash(state);
    }
}

impl NnFunction {
    /// The function with the version that it is to use from now on; none when it has one, or names no model.
    ///
    /// # Errors
    /// `Plan` when there is no such model.
    pub(crate) fn pin(&self, first: &ScalarValue) -> Result<Option<(ScalarUDF, ScalarValue)>> {
        let Some(Some(text)) = first.try_as_str().filter(|_| self.pinned.is_none()) else { return Ok(None) };
        let (name, asked) = ModelRef::decode(text)?;
        let entry = self.models.snapshot().resolve(&name, asked)?.clone();
        let shown = pinned(&name, &entry);
        Ok(Some((ScalarUDF::new_from_impl(self.of_version(entry)), shown)))
    }

    /// The function with a version.
    pub(crate) fn of_version(&self, entry: Arc<VersionEntry>) -> NnFunction {
        NnFunction { pinned: Some(Pinned { entry, model: Arc::default() }), ..self.clone() }
    }

    /// Reads the model, so that no batch has to wait for it.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) async fn prepare(&self) -> Result<()> {
        if let Some(Pinned { entry, model }) = self.pinned.as_ref().filter(|p| p.model.get().is_none()) {
            // Whoever was first has put the same there.
            _ = model.set(self.models.load(entry).await?);
        }
        Ok(())
    }

    /// Arguments before the features.
    pub(crate) fn constants(&self) -> usize {
        self.answer.constants()
    }

    /// The model that the first argument names.
    ///
    /// # Errors
    /// `Plan` when it is no constant or no name.
    pub(crate) fn model(&self, constant: Option<&ScalarValue>) -> Result<(ModelName, Option<u64>)> {
        match constant.and_then(ScalarValue::try_as_str) {
            Some(Some(text)) => ModelRef::decode(text),
            _ => plan_err!("{}: the model's name must be a string constant", self.name()),
        }
    }

    /// The columns of the arguments, named as the model's features.
    fn schema(&self, about: &About, model: &ModelName, found: &[FieldRef]) -> Result<Arc<Schema>> {
        // One struct binds by name.
        if let [only] = found
            && let DataType::Struct(fields) = only.data_type()
            && about.features.len() > 1
        {
            return self.checked(about, model, Schema::new(fields.clone()));
        }
        let wanted = about.reads();
        if found.len() != wanted.len() {
            return plan_err!(
                "{}('{model}', …) expects {} features ({}), got {}",
                self.name(),
                wanted.len(),
                wanted.join(", "),
                found.len()
            );
        }
        let fields: Vec<Field> =
            wanted.iter().zip(found).map(|(n, f)| f.as_ref().clone().with_name(*n)).collect();
        self.checked(about, model, Schema::new(fields))
    }

    fn checked(&self, about: &About, model: &ModelName, schema: Schema) -> Result<Arc<Schema>> {
        let shown = format!("{}('{model}', …)", self.name());
        about.check(&shown, &schema)?;
        Ok(Arc::new(schema))
    }

    fn answer(&self, model: &LoadedModel, class: Option<&str>, batch: &RecordBatch) -> Result<ArrayRef> {
        let predictions = model.predict(batch)?;
        match self.answer {
            Answer::Value => model.values(&predictions, None),
            Answer::Probability => {
                let class = class_index(model.about(), class)?;
                let (outputs, shares) = (predictions.outputs, predictions.probabilities());
                let of_class = shares.chunks_exact(outputs).map(|row| f64::from(row[class])).collect();
                Ok(Arc::new(Float64Array::new(of_class, scored(&predictions))))
            }
            Answer::Both => {
                let mut arrays = vec![model.values(&predictions, None)?];
                if model.about().classes().is_some() {
                    arrays.push(model.probabilities(&predictions, None)?);
                }
                Ok(Arc::new(StructArray::try_new(both_fields(model.about())?, arrays, None)?))
            }
        }
    }
}

fn class_index(about: &About, class: Option<&str>) -> Result<usize> {
    let Some(classes) = about.classes() else { return plan_err!("nn_prob: {about} has no classes") };
    match class.and_then(|class| classes.iter().position(|c| c == class)) {
        Some(index) => Ok(index),
        None => {
            plan_err!(
                "nn_prob: there is no class '{}'; there are {}",
                class.unwrap_or("NULL"),
                classes.join(", ")
            )
        }
    }
}

fn both_fields(about: &About) -> Result<Fields> {
    Ok(about.predicted_fields()?.into())
}

impl ScalarUDFImpl for NnFunction {
    fn name(&self) -> &str {
        self.answer.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the result of {} depends on the model's name", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let constants = self.answer.constants();
        if args.arg_fields.len() < constants {
            return plan_err!("{} expects a model's name and features", self.name());
        }
        let (model, version) = self.model(args.scalar_arguments[0])?;
        let about = match &self.pinned {
            Some(pinned) => Models::about(&pinned.entry)?,
            None => Models::about(self.models.snapshot().resolve(&model, version)?)?,
        };
        self.schema(&about, &model, &args.arg_fields[constants..])?;
        let data_type = match self.answer {
            Answer::Value => about.predicted_fields()?[0].data_type().clone(),
            Answer::Both => DataType::Struct(both_fields(&about)?),
            Answer::Probability => {
                let class = args.scalar_arguments[1].map(ToString::to_string);
                class_index(&about, class.as_deref())?;
                DataType::Float64
            }
        };
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constants = self.answer.constants();
        let constant = |i: usize| match args.args.get(i) {
            Some(ColumnarValue::Scalar(value)) => Some(value),
            _ => None,
        };
        let (model, version) = self.model(constant(0))?;
        let loaded = self.load(&model, version)?;
        let schema = self.schema(loaded.about(), &model, &args.arg_fields[constants..])?;
        let arrays = args.args[constants..].iter().map(|a| a.to_array(args.number_rows));
        let mut arrays = arrays.collect::<Result<Vec<_>>>()?;
        if arrays.len() != schema.fields().len()
            && let Some(only) = arrays.first().and_then(|a| a.as_struct_opt())
        {
            arrays = only.columns().to_vec();
        }
        let options = RecordBatchOptions::new().with_row_count(Some(args.number_rows));
        let batch = RecordBatch::try_new_with_options(schema, arrays, &options)?;
        let class = constant(1).map(ToString::to_string);
        Ok(ColumnarValue::Array(self.answer(&loaded, class.as_deref(), &batch)?))
    }
}

impl NnFunction {
    /// The model; a function cannot await the store, so where nothing prepared it this waits.
    fn load(&self, model: &ModelName, version: Option<u64>) -> Result<Arc<LoadedModel>> {
        if let Some(loaded) = self.pinned.as_ref().and_then(|pinned| pinned.model.get()) {
            return Ok(loaded.clone());
        }
        let entry = match &self.pinned {
            Some(pinned) => pinned.entry.clone(),
            None => self.models.snapshot().resolve(model, version)?.clone(),
        };
        let loaded = self.models.load_waiting(&entry)?;
        match &self.pinned {
            Some(pinned) => Ok(pinned.model.get_or_init(|| loaded).clone()),
            None => Ok(loaded),
        }
    }
}
