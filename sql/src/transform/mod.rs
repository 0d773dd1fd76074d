//! `TRANSFORM (…)`: expressions that are kept with the model, and the statistics of its training rows in them.
//!
//! They are kept as SQL, in which `ML.STANDARD_SCALER(age) OVER ()` has become `(CAST(age AS DOUBLE) - 38.6) / 12.1`.
//! Training, prediction and `ML.TRANSFORM` run the same text, with DataFusion's own functions and none of the session's,
//! so that a model means the same wherever it is used.

mod ask;
mod draft;
mod node;
mod scalers;

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::util::display::FormatOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, exec_datafusion_err, plan_err};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility, cast as cast_expr};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use serde::{Deserialize, Serialize};

pub(crate) use ask::ask;
pub(crate) use draft::Draft;
pub(crate) use node::MlTransform;

use crate::about::read_type;
use crate::encode::FeatureKind;

/// A column of a query that expressions read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its name.
    pub column: String,
    /// Its Arrow type in the training query, as [`DataType`] prints it; others are cast to it.
    pub data_type: String,
}

/// A column that is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// The expression, in which statistics are numbers.
    pub sql: String,
    /// The expression as the user wrote it.
    pub written: String,
}

/// What becomes of a query's columns before a model reads them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    /// The columns that features are made of.
    pub features: Made,
    /// The column that the label is made of, unless nothing is learned.
    pub label: Option<Made>,
    /// Columns that are made for the training alone, as weights of rows, or made and left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<Made>,
}

/// Columns that are made, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// In the order of the training query.
    pub inputs: Vec<Input>,
    /// In the order of the statement.
    pub items: Vec<Item>,
}

impl Made {
    /// Checks that a query has the columns that expressions read.
    ///
    /// # Errors
    /// `Plan` naming the column, what was found and what was expected.
    pub(crate) fn check(&self, shown: &str, schema: &Schema) -> Result<()> {
        for Input { column, data_type } in &self.inputs {
            let Ok(found) = schema.field_with_name(column) else {
                let have: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                return plan_err!(
                    "{shown}: missing column '{column}' ({data_type}); have: {}",
                    have.join(", ")
                );
            };
            if !alike(column, found.data_type(), &read_type(column, data_type)?) {
                return plan_err!(
                    "{shown}: column '{column}' is {}, the model was trained on {data_type}",
                    found.data_type()
                );
            }
        }
        Ok(())
    }

    fn schema(&self) -> Result<Schema> {
        let field = |i: &Input| Ok(Field::new(&i.column, read_type(&i.column, &i.data_type)?, true));
        Ok(Schema::new(self.inputs.iter().map(field).collect::<Result<Vec<_>>>()?))
    }

    /// The expressions over the columns of a query; other types are cast to those of the training.
    ///
    /// # Errors
    /// `Plan` naming the column.
    pub(crate) fn over(&self, schema: &DFSchema) -> Result<Vec<Expr>> {
        let inputs = self.schema()?;
        let known = DFSchema::try_from(inputs.clone())?;
        let column = |expr: Expr| {
            let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
            let wanted = inputs.field_with_name(&column.name)?.data_type();
            let (qualifier, found) = schema.qualified_field_with_unqualified_name(&column.name)?;
            let found_type = found.data_type().clone();
            let column = Expr::Column((qualifier, found).into());
            let cast = if found_type == *wanted { column } else { cast_expr(column, wanted.clone()) };
            // What is inside is done.
            Ok(Transformed::new(cast, true, TreeNodeRecursion::Jump))
        };
        // DataFusion's own coercion may have been before.
        let simplifier = simplifier(&known);
        let over = |item: &Item| {
            let expr = simplifier.coerce(STATE.create_logical_expr(&item.sql, &known)?, &known)?;
            Ok(expr.transform_down(column)?.data.alias(&item.name))
        };
        self.items.iter().map(over).collect()
    }
}

/// Whether values of one type stand for values of another, as they do where a model reads columns as they are.
fn alike(column: &str, found: &DataType, wanted: &DataType) -> bool {
    let reads = |wanted: FeatureKind| wanted.reads(column, found);
    found == wanted || *found == DataType::Null || FeatureKind::of(column, wanted).is_ok_and(reads)
}

/// Plans expressions, always with the same functions and settings.
static STATE: LazyLock<SessionState> =
    LazyLock::new(|| SessionStateBuilder::new().with_default_features().build());

const STRICT: CastOptions<'_> = CastOptions { safe: false, format_options: FormatOptions::new() };

/// Makes columns.
#[derive(Debug)]
pub(crate) struct Transformer {
    inputs: SchemaRef,
    outputs: Vec<(FieldRef, Arc<dyn PhysicalExpr>)>,
}

impl Transformer {
    pub(crate) fn new(made: &Made) -> Result<Transformer> {
        let inputs = made.schema()?;
        let known = DFSchema::try_from(inputs.clone())?;
        let output = |item: &Item| {
            let expr = planned(item, &known)?;
            let field = expr.to_field(&known)?.1.as_ref().clone().with_name(&item.name).with_nullable(true);
            Ok((Arc::new(field), physical(expr, &known)?))
        };
        let outputs = made.items.iter().map(output).collect::<Result<Vec<_>>>()?;
        Ok(Transformer { inputs: Arc::new(inputs), outputs })
    }

    /// The columns that are made.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &FieldRef> {
        self.outputs.iter().map(|(field, _)| field)
    }

    /// The columns that are made of a batch of the query.
    pub(crate) fn arrays(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let input = |field: &FieldRef| match batch.column_by_name(field.name()) {
            Some(array) if array.data_type() == field.data_type() => Ok(array.clone()),
            // A value that the type does not hold is an error, not a NULL.
            Some(array) => cast_with_options(array, field.data_type(), &STRICT)
                .map_err(|e| exec_datafusion_err!("column '{}': {e}", field.name())),
            None => plan_err!("there is no column '{}'", field.name()),
        };
        let inputs = self.inputs.fields().iter().map(input).collect::<Result<Vec<_>>>()?;
        let inputs = batch_of(self.inputs.clone(), inputs, batch.num_rows())?;
        let output = |(field, expr): &(FieldRef, Arc<dyn PhysicalExpr>)| {
            let made = expr.evaluate(&inputs).and_then(|made| made.into_array(batch.num_rows()));
            made.map_err(|e| e.context(format!("TRANSFORM item '{}'", field.name())))
        };
        self.outputs.iter().map(output).collect()
    }

    pub(crate) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let schema = Arc::new(Schema::new(self.fields().cloned().collect::<Vec<_>>()));
        batch_of(schema, self.arrays(batch)?, batch.num_rows())
    }
}

fn batch_of(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// The expression of an item.
///
/// # Errors
/// `Plan` naming the item, for what is no expression over a row.
fn planned(item: &Item, schema: &DFSchema) -> Result<Expr> {
    let shown = || format!("TRANSFORM item '{}'", item.written);
    let expr = STATE.create_logical_expr(&item.sql, schema).map_err(|e| e.context(shown()))?;
    let mut refused = None;
    expr.apply(|e| {
        refused = match e {
            Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
            | Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::Unnest(_) => Some(
                "expected an expression over one row or a function like ML.STANDARD_SCALER(x) OVER (); put aggregates, windows and subqueries into the query",
            ),
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                Some("its value is another each time, so a model cannot keep it")
            }
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        Ok(TreeNodeRecursion::Stop)
    })?;
    match refused {
        Some(why) => plan_err!("{}: {why}", shown()),
        None => Ok(expr),
    }
}

/// As a query would plan it: some functions are only there until they are simplified.
fn physical(expr: Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    let simplifier = simplifier(schema);
    STATE.create_physical_expr(simplifier.simplify(simplifier.coerce(expr, schema)?)?, schema)
}

fn simplifier(schema: &DFSchema) -> ExprSimplifier {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(STATE.config_options().clone())
        .with_query_execution_start_time(STATE.execution_props().query_execution_start_time)
        .build();
    ExprSimplifier::new(context)
}

/// Both columns of a training query that are made, and those that go along.
#[derive(Debug)]
pub(crate) struct Training {
    features: Transformer,
    label: Option<Transformer>,
    aside: Option<Transformer>,
    along: Vec<String>,
}

impl Training {
    /// `along`: columns of the query that the training reads besides, where no item has the name.
    pub(crate) fn new(transform: &Transform, along: &[String]) -> Result<Training> {
        let features = Transformer::new(&transform.features)?;
        let label = transform.label.as_ref().map(Transformer::new).transpose()?;
        let aside = transform.aside.as_ref().map(Transformer::new).transpose()?;
        let mut training = Training { features, label, aside, along: Vec::new() };
        let made: Vec<String> = training.made().map(|field| field.name().clone()).collect();
        training.along = along.iter().filter(|name| !made.contains(name)).cloned().collect();
        Ok(training)
    }

    /// The columns that are made.
    fn made(&self) -> impl Iterator<Item = &FieldRef> {
        [Some(&self.features), self.label.as_ref(), self.aside.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|t| t.fields())
    }

    /// The columns of the query that go along.
    pub(crate) fn along(&self) -> &[String] {
        &self.along
    }

    pub(crate) fn schema(&self, query: &Schema) -> Result<Schema> {
        let mut fields: Vec<FieldRef> = self.made().cloned().collect();
        for name in &self.along {
            let Ok(field) = query.field_with_name(name) else {
                return plan_err!("column '{name}' is neither made by TRANSFORM nor in the query");
            };
            fields.push(Arc::new(field.clone()));
        }
        Ok(Schema::new(fields))
    }

    pub(crate) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let schema = Arc::new(self.schema(&batch.schema())?);
        let mut columns = self.features.arrays(batch)?;
        for transformer in self.label.iter().chain(&self.aside) {
            columns.extend(transformer.arrays(batch)?);
        }
        columns.extend(self.along.iter().filter_map(|name| batch.column_by_name(name)).cloned());
        batch_of(schema, columns, batch.num_rows())
    }
}

/// Whether a type is read back from what is written of it.
fn is_written(column: &str, data_type: &DataType) -> bool {
    read_type(column, &data_type.to_string()).is_ok_and(|read| read == *data_type)
}
