//! The functions for a host that plans without us: DataFusion in Python, the executors of a cluster.
//!
//! No rule of ours gives a query its version of a model there, and nothing of ours reads the model before the query
//! runs. So the function looks at the store when the host asks for the type of its result, names that result's field after
//! the version, and reads the model with the first batch. The host hands the field back with each batch; columns have
//! names of their own, so that nobody else sees it. (Metadata would reach the columns, and a plan whose columns differ
//! from those it was planned with, because a model was replaced in between, is refused by DataFusion.)

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, new_empty_array};
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};

use crate::aggregate;
use crate::functions::{self, NnFunction};
use crate::models::Models;
use crate::parse::ModelRef;
use crate::store::{ModelStore, VersionEntry};
use crate::wait::wait;

/// `nn_predict_value`, `nn_prob` and `nn_predict` over a store, `nn_apply` and `nn_apply_class`.
///
/// # Errors
/// Of the store.
pub fn functions(store: ModelStore) -> Result<Vec<ScalarUDF>> {
    let models = Arc::new(wait(Models::open(store))?);
    Ok(functions_of(&models))
}

/// The same over models that are known.
pub fn functions_of(models: &Arc<Models>) -> Vec<ScalarUDF> {
    let hosted = |function| {
        let models = models.clone();
        ScalarUDF::new_from_impl(HostedFunction { function, models, planned: Arc::default() })
    };
    functions::of_all(models).into_iter().map(hosted).chain(aggregate::apply()).collect()
}

/// `nn_fit`.
pub fn aggregates() -> Vec<AggregateUDF> {
    vec![AggregateUDF::new_from_impl(HostedAggregate { aggregate: aggregate::fit() })]
}

#[derive(Clone, Debug)]
struct HostedFunction {
    function: NnFunction,
    models: Arc<Models>,
    /// Versions that queries were planned with, whatever becomes of their names.
    planned: Arc<Mutex<HashMap<String, Arc<VersionEntry>>>>,
}

/// Versions that are remembered.
const PLANNED: usize = 1024;

impl PartialEq for HostedFunction {
    fn eq(&self, other: &Self) -> bool {
        // It compares the models too.
        self.function == other.function
    }
}

impl Eq for HostedFunction {}

impl Hash for HostedFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

impl HostedFunction {
    /// Looks what was committed since.
    fn refresh(&self) -> Result<()> {
        let models = self.models.clone();
        wait(async move { models.refresh().await })?;
        Ok(())
    }

    /// The name of the model with the version that it has now, and that version.
    fn settle(&self, first: Option<&ScalarValue>) -> Result<(ScalarValue, Arc<VersionEntry>)> {
        let (model, version) = self.function.model(first)?;
        let known = || self.models.snapshot().resolve(&model, version).cloned();
        let entry = match (version, known()) {
            // A number means the same for ever.
            (Some(_), Ok(entry)) => entry,
            _ => {
                self.refresh()?;
                known()?
            }
        };
        Ok((functions::pinned(&model, &entry), entry))
    }

    /// The version that a query was planned with, as [`HostedFunction::settle`] names it. Where another process planned it,
    /// or the host did not hand that name back, it is looked up, in the store only when it is not known: this is asked with
    /// every batch.
    fn planned(&self, named: &ScalarValue) -> Result<Arc<VersionEntry>> {
        let planned = || self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = planned().get(&named.to_string()) {
            return Ok(entry.clone());
        }
        let (model, version) = self.function.model(Some(named))?;
        let known = self.models.snapshot().resolve(&model, version).cloned();
        let entry = known.or_else(|_| self.settle(Some(named)).map(|(_, entry)| entry))?;
        if version.is_some() {
            self.keep(named, &entry);
        }
        Ok(entry)
    }

    fn keep(&self, settled: &ScalarValue, entry: &Arc<VersionEntry>) {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if planned.len() >= PLANNED {
            planned.clear();
        }
        planned.insert(settled.to_string(), entry.clone());
    }
}

impl ScalarUDFImpl for HostedFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let (settled, entry) = self.settle(args.scalar_arguments.first().copied().flatten())?;
        self.keep(&settled, &entry);
        let mut scalars = args.scalar_arguments.to_vec();
        scalars[0] = Some(&settled);
        let args = ReturnFieldArgs { scalar_arguments: &scalars, ..args };
        let field = self.function.return_field_from_args(args)?;
        Ok(Arc::new(field.as_ref().clone().with_name(settled.to_string())))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.number_rows == 0 {
            return Ok(ColumnarValue::Array(new_empty_array(args.return_field.data_type())));
        }
        // A foreign host hands constants over as columns.
        for constant in args.args.iter_mut().take(self.function.constants()) {
            if let ColumnarValue::Array(array) = constant {
                *constant = ColumnarValue::Scalar(ScalarValue::try_from_array(array, 0)?);
            }
        }
        let planned = args.return_field.name();
        if let (Some(first), Ok((_, Some(_)))) = (args.args.first_mut(), ModelRef::decode(planned)) {
            *first = ColumnarValue::Scalar(ScalarValue::from(planned.as_str()));
        }
        let function = match args.args.first() {
            Some(ColumnarValue::Scalar(first)) => self.function.of_version(self.planned(first)?),
            _ => self.function.clone(),
        };
        function.invoke_with_args(args)
    }
}

/// `nn_fit`, whose arguments are another library's expressions: it takes names and constants from these.
#[derive(Debug, PartialEq, Eq, Hash)]
struct HostedAggregate {
    aggregate: AggregateUDF,
}

impl AggregateUDFImpl for HostedAggregate {
    fn name(&self) -> &str {
        self.aggregate.name()
    }

    fn signature(&self) -> &Signature {
        self.aggregate.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.aggregate.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let last = args.exprs.len().saturating_sub(1);
        let own = |(i, expr): (usize, &Arc<dyn PhysicalExpr>)| match i == last {
            true => constant(expr, args.schema),
            false => Ok(column(expr, args.schema)),
        };
        let exprs = args.exprs.iter().enumerate().map(own).collect::<Result<Vec<_>>>()?;
        self.aggregate.accumulator(AccumulatorArgs { exprs: &exprs, ..args })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.aggregate.state_fields(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.aggregate.order_sensitivity()
    }
}

/// An expression of constants is the same without rows.
fn constant(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    match expr.evaluate(&RecordBatch::new_empty(Arc::new(schema.clone())))? {
        ColumnarValue::Scalar(value) => Ok(Arc::new(Literal::new(value))),
        ColumnarValue::Array(_) => Ok(expr.clone()),
    }
}

/// Columns show as `name@index`.
fn column(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Arc<dyn PhysicalExpr> {
    let shown = expr.to_string();
    let found = shown.rsplit_once('@').and_then(|(name, index)| Some((name, index.parse::<usize>().ok()?)));
    match found {
        Some((name, index)) if schema.fields().get(index).is_some_and(|field| field.name() == name) => {
            Arc::new(Column::new(name, index))
        }
        _ => expr.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Float64Array};
    use arrow::datatypes::{Field, Float64Type};
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::Firesteel;

    /// A model of y = 2 x, roughly, and a host that knows the functions alone.
    async fn trained(folder: &std::path::Path, factor: f64) -> Firesteel {
        let context = SessionContext::new();
        let firesteel = Firesteel::register(&context, ModelStore::directory(folder).unwrap()).await.unwrap();
        let sql = format!(
            "CREATE OR REPLACE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['y'], max_iterations = 2)
             AS SELECT value AS x, value * {factor} AS y FROM generate_series(1, 50)"
        );
        firesteel.sql(&sql).await.unwrap();
        firesteel
    }

    fn named<'a>(functions: &'a [ScalarUDF], name: &str) -> &'a ScalarUDF {
        functions.iter().find(|f| f.name() == name).unwrap()
    }

    /// As a foreign host calls it: constants are columns.
    fn call(function: &ScalarUDF, field: &FieldRef, rows: usize) -> Result<ColumnarValue> {
        let name: Field = Field::new("m", DataType::Utf8, false);
        let x = Field::new("x", DataType::Float64, true);
        function.invoke_with_args(ScalarFunctionArgs {
            args: vec![
                ColumnarValue::Array(ScalarValue::from("m").to_array_of_size(rows)?),
                ColumnarValue::Array(Arc::new(Float64Array::from_iter_values((0..rows).map(|i| i as f64)))),
            ],
            arg_fields: vec![Arc::new(name), Arc::new(x)],
            number_rows: rows,
            return_field: field.clone(),
            config_options: Arc::default(),
        })
    }

    fn plan(function: &ScalarUDF, model: &str) -> Result<FieldRef> {
        let fields: Vec<FieldRef> = vec![
            Arc::new(Field::new("m", DataType::Utf8, false)),
            Arc::new(Field::new("x", DataType::Float64, true)),
        ];
        let model = ScalarValue::from(model);
        function.return_field_from_args(ReturnFieldArgs {
            arg_fields: &fields,
            scalar_arguments: &[Some(&model), None],
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_planned_query_keeps_its_version_and_the_next_sees_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let hosted = functions(ModelStore::directory(folder.path()).unwrap()).unwrap();
        let value = named(&hosted, "nn_predict_value");
        assert!(plan(value, "m").unwrap_err().to_string().contains("there are no models yet"));

        trained(folder.path(), 2.0).await;
        let first = plan(value, "m").unwrap();
        assert_eq!(first.name(), "m@1");
        let before = call(value, &first, 3).unwrap().to_array(3).unwrap();

        let firesteel = trained(folder.path(), -5.0).await;
        let second = plan(value, "m").unwrap();
        assert_eq!(second.name(), "m@2");
        assert_eq!(&call(value, &first, 3).unwrap().to_array(3).unwrap(), &before);
        let after = call(value, &second, 3).unwrap().to_array(3).unwrap();
        assert_ne!(&after, &before);

        // What our own session says.
        let sql = "SELECT nn_predict_value('m', column1) FROM (VALUES (0.0), (1.0), (2.0))";
        let rows = firesteel.sql(sql).await.unwrap().collect().await.unwrap();
        assert_eq!(rows[0].column(0).as_primitive::<Float64Type>(), after.as_primitive::<Float64Type>());
        assert_eq!(call(value, &second, 0).unwrap().to_array(0).unwrap().len(), 0);
        assert!(plan(value, "mm").unwrap_err().to_string().contains("model 'mm' not found"));
        assert!(plan(value, "m@9").unwrap_err().to_string().contains("it has 1, 2"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_model_that_is_dropped_and_made_again_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let hosted = functions(ModelStore::directory(folder.path()).unwrap()).unwrap();
        let value = named(&hosted, "nn_predict_value");
        let firesteel = trained(folder.path(), 2.0).await;
        let first = plan(value, "m").unwrap();
        let before = call(value, &first, 3).unwrap().to_array(3).unwrap();
        firesteel.sql("DROP MODEL m").await.unwrap();
        trained(folder.path(), -5.0).await;
        let second = plan(value, "m").unwrap();
        assert_eq!(second.name(), "m@2");
        assert_ne!(&call(value, &second, 3).unwrap().to_array(3).unwrap(), &before);
        // A query that runs has what it was planned with, though nobody finds it by its name any more.
        assert_eq!(&call(value, &first, 3).unwrap().to_array(3).unwrap(), &before);
        assert!(plan(value, "m@1").unwrap_err().to_string().contains("has no version 1"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_version_planned_elsewhere_is_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let hosted = functions(ModelStore::directory(folder.path()).unwrap()).unwrap();
        trained(folder.path(), 2.0).await;
        // Planned by a host that gives the result a name of its own.
        let field = Arc::new(Field::new("nn_predict_value", DataType::Float64, true));
        let value = named(&hosted, "nn_predict_value");
        assert_eq!(call(value, &field, 5).unwrap().to_array(5).unwrap().len(), 5);
        // The next batch does not go there again.
        std::fs::rename(folder.path().join("public"), folder.path().join("elsewhere")).unwrap();
        assert_eq!(call(value, &field, 5).unwrap().to_array(5).unwrap().len(), 5);
    }
}
