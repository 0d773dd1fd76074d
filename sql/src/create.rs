//! `CREATE MODEL` as a plan: its rows are the epochs, and after the last one the model is committed.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err, plan_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use firesteel_train::EpochRecord;

use crate::about::{About, Label};
use crate::encode::{Feature, FeatureKind, find_type};
use crate::job::{Job, Look, MlJob};
use crate::spec::{Split, TrainSpec};
use crate::store::{VersionEntry, WorkFolder};
use crate::transform::{Draft, Training};
use crate::unfinished::Unfinished;

/// Strands that rows are dealt into where nobody says how many workers there are.
const STRANDS: usize = 16;

/// The logical node.
#[derive(Clone, Debug)]
pub struct CreateModel {
    pub(crate) input: Arc<LogicalPlan>,
    pub(crate) spec: Arc<TrainSpec>,
    pub(crate) about: Arc<About>,
    /// Which training of this model it is, from 0.
    pub(crate) run: i64,
    /// Whether the model is kept.
    pub(crate) commit: bool,
    /// The version that training goes on from.
    pub(crate) warm: Option<Warm>,
    /// What becomes of the query's columns, if they are not read as they are.
    pub(crate) draft: Option<Arc<Draft>>,
    /// The query's columns.
    pub(crate) query: SchemaRef,
    /// Where its rows are kept, if workers never meet; then the input is a job that keeps them.
    pub(crate) folder: Option<WorkFolder>,
    pub(crate) schema: DFSchemaRef,
}

/// What a training goes on from.
#[derive(Clone, Debug, PartialEq)]
pub enum Warm {
    /// The weights of a version, and what it reads and predicts.
    Version(Arc<VersionEntry>, Arc<About>),
    /// A training of this model that did not end.
    Checkpoint(Arc<Unfinished>),
}

impl Warm {
    /// What it reads and predicts.
    pub fn about(&self) -> &Arc<About> {
        match self {
            Warm::Version(_, about) => about,
            Warm::Checkpoint(unfinished) => unfinished.about(),
        }
    }
}

impl fmt::Display for Warm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warm::Version(entry, _) => write!(f, "version {}", entry.version),
            Warm::Checkpoint(unfinished) => write!(f, "the checkpoint of {} epochs", unfinished.epochs()),
        }
    }
}

impl CreateModel {
    /// Checks what the query's columns tell before a row is read.
    ///
    /// # Errors
    /// `Plan` naming the label or the column.
    pub(crate) fn new(
        input: LogicalPlan,
        spec: Arc<TrainSpec>,
        run: i64,
        commit: bool,
        warm: Option<Warm>,
        draft: Option<Draft>,
    ) -> Result<CreateModel> {
        let query = input.schema().as_arrow();
        let transform = draft.as_ref().map(Draft::typed).transpose()?;
        let about = match &transform {
            None => about(query, &spec, &[])?,
            Some(transform) => {
                let training = Training::new(transform, &spec.along())?;
                about(&training.schema(query)?, &spec, training.along())?
            }
        };
        let about = Arc::new(About { transform, ..about });
        if let Some(warm) = &warm {
            check_same(&spec, warm, &about)?;
        }
        let schema = Arc::new(DFSchema::try_from(training_schema().as_ref().clone())?);
        let query = Arc::new(query.clone());
        let folder = spec.average.then(|| WorkFolder::new(&spec.name));
        let input = match &folder {
            None => input,
            Some(folder) => {
                // What is made of the rows is looked at when it can be made.
                let look = draft.is_none().then(|| look(&spec, &about));
                let strands = spec.workers.unwrap_or(STRANDS);
                let node = Arc::new(MlJob::new(input, folder.clone(), Job::Deal { look, strands })?);
                LogicalPlan::Extension(Extension { node })
            }
        };
        let (input, draft) = (Arc::new(input), draft.map(Arc::new));
        Ok(CreateModel { input, spec, about, run, commit, warm, draft, query, folder, schema })
    }

    fn key(&self) -> (&str, i64, bool) {
        (&self.spec.sql, self.run, self.commit)
    }
}

/// What is to be learned of the rows before they can be encoded.
pub(crate) fn look(spec: &TrainSpec, about: &About) -> Look {
    Look { features: about.features.clone(), label: spec.label.clone(), classifier: spec.classifier }
}

/// What is known of the model before its rows are.
///
/// `along`: columns that no feature is made of.
pub(crate) fn about(schema: &Schema, spec: &TrainSpec, along: &[String]) -> Result<About> {
    let label = spec.label.as_ref().map(|column| label(schema, spec, column)).transpose()?;
    let mut left_out: Vec<&str> = spec.label.iter().chain(along).map(String::as_str).collect();
    for column in spec.left_out.iter().chain(&spec.weight) {
        if schema.field_with_name(column).is_err() {
            return plan_err!("column '{column}' is not in the query");
        }
        left_out.push(column);
    }
    if let Split::Sequential { column, .. } = &spec.split {
        check_order(column, find_type(schema, column))?;
    }
    let lists = |field: &Arc<Field>| {
        matches!(FeatureKind::of(field.name(), field.data_type()), Ok(FeatureKind::Vector { .. }))
    };
    if spec.input_shape.is_some() && !schema.fields().iter().any(lists) {
        return plan_err!("input_shape is for a list of numbers, and the query has none");
    }
    if let Some(wanted) = &spec.features {
        if let Some(column) = wanted.iter().find(|w| schema.field_with_name(w).is_err()) {
            return plan_err!("feature column '{column}' is not in the query");
        }
        left_out.extend(
            schema.fields().iter().map(|f| f.name().as_str()).filter(|f| !wanted.iter().any(|w| w == f)),
        );
    }
    let features = Feature::of_schema(schema, &left_out)?;
    let refuses_unseen = spec.refuses_unseen;
    Ok(About { model_type: spec.model_type.clone(), label, features, refuses_unseen, transform: None })
}

fn label(schema: &Schema, spec: &TrainSpec, column: &str) -> Result<Label> {
    let Some(data_type) = find_type(schema, column) else {
        let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return plan_err!("label column '{column}' is not in the query (columns: {})", columns.join(", "));
    };
    check_label(spec, column, &data_type)?;
    Ok(Label { column: column.to_owned(), data_type: data_type.to_string(), classes: None })
}

/// That a query has what the model to go on from reads.
fn check_same(spec: &TrainSpec, warm: &Warm, now: &About) -> Result<()> {
    let before = warm.about();
    let name = match warm {
        Warm::Version(..) => format!("model '{}'", spec.name),
        Warm::Checkpoint(_) => format!("the checkpoint of '{}'", spec.name),
    };
    let columns = |about: &About| -> Vec<(String, String)> {
        let label = about.label.iter().map(|label| (label.column.clone(), label.data_type.clone()));
        about.features.iter().map(|f| (f.column.clone(), f.data_type.clone())).chain(label).collect()
    };
    let written = |about: &About| -> Option<Vec<(String, String)>> {
        let transform = about.transform.as_ref()?;
        let items = transform.features.items.iter();
        let items = items.chain(transform.label.iter().flat_map(|label| &label.items));
        Some(items.map(|item| (item.name.clone(), item.written.clone())).collect())
    };
    if written(before) != written(now) {
        return plan_err!("warm_start: TRANSFORM is another than that of {name}");
    }
    let (before, now) = (columns(before.as_ref()), columns(now));
    for (column, was) in &before {
        match now.iter().find(|(other, _)| other == column) {
            None => return plan_err!("warm_start: {name} has column '{column}', the query does not"),
            Some((_, is)) if is != was => {
                return plan_err!("warm_start: column '{column}' is {is}, {name} was trained on {was}");
            }
            Some(_) => {}
        }
    }
    match now.iter().find(|column| !before.contains(column)) {
        Some((column, _)) => {
            plan_err!("warm_start: the query has column '{column}', {name} does not")
        }
        None => Ok(()),
    }
}

fn check_order(column: &str, data_type: Option<DataType>) -> Result<()> {
    match data_type {
        None => plan_err!("data_split_col '{column}' is not in the query"),
        Some(t) if t.is_numeric() || t.is_temporal() => Ok(()),
        Some(t) => plan_err!("data_split_col '{column}' is {t}; seq needs a number, a date or a time"),
    }
}

fn check_label(spec: &TrainSpec, label: &str, data_type: &DataType) -> Result<()> {
    let model_type = &spec.model_type;
    let text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let numeric = data_type.is_numeric();
    match (spec.classifier, data_type) {
        (true, DataType::Boolean) => Ok(()),
        (true, _) if text || data_type.is_integer() => Ok(()),
        (true, _) if numeric => {
            plan_err!("label '{label}' is {data_type}: use a regressor, or cast it to an integer or a string")
        }
        (false, _) if numeric || *data_type == DataType::Boolean => Ok(()),
        (false, _) if text => plan_err!("label '{label}' is text: use dnn_classifier or cast it to a number"),
        _ => plan_err!("label '{label}' is {data_type}, which {model_type} cannot learn"),
    }
}

impl PartialEq for CreateModel {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
            && self.spec == other.spec
            && self.warm == other.warm
            && self.input == other.input
    }
}

// A specification holds no NaN: its numbers come from literals.
impl Eq for CreateModel {}

impl PartialOrd for CreateModel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.key().partial_cmp(&other.key())
    }
}

impl Hash for CreateModel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        self.input.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for CreateModel {
    fn name(&self) -> &str {
        "CreateModel"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "CreateModel: {}, {}", self.spec.name, self.about)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("CreateModel has one input") };
        Ok(CreateModel { input: Arc::new(input), ..self.clone() })
    }
}

/// The columns of a training, those of `ML.TRAINING_INFO`.
pub(crate) fn training_schema() -> SchemaRef {
    let whole = |name| Field::new(name, DataType::Int64, true);
    let real = |name| Field::new(name, DataType::Float64, true);
    Arc::new(Schema::new(vec![
        whole("training_run"),
        whole("iteration"),
        real("loss"),
        real("eval_loss"),
        real("eval_metric"),
        whole("duration_ms"),
        real("rows_per_second"),
    ]))
}

/// Epochs as rows of [`training_schema`].
///
/// # Errors
/// Of Arrow.
pub(crate) fn training_rows(run: i64, epochs: &[EpochRecord]) -> Result<RecordBatch> {
    let whole = |of: &dyn Fn(&EpochRecord) -> i64| -> ArrayRef {
        Arc::new(epochs.iter().map(|e| Some(of(e))).collect::<Int64Array>())
    };
    let real = |of: &dyn Fn(&EpochRecord) -> Option<f64>| -> ArrayRef {
        Arc::new(epochs.iter().map(of).collect::<Float64Array>())
    };
    let columns = vec![
        whole(&|_| run),
        whole(&|e| e.epoch as i64 - 1),
        real(&|e| Some(e.loss)),
        real(&|e| e.validation_loss),
        real(&|e| e.validation_metric),
        whole(&|e| (e.seconds * 1e3).round() as i64),
        real(&|e| Some(e.samples_per_second)),
    ];
    Ok(RecordBatch::try_new(training_schema(), columns)?)
}
