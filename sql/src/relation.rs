//! Plans the relations `ML.PREDICT(…)` and their like.

use std::sync::Arc;

use datafusion::common::{DFSchema, Result, ScalarValue, plan_datafusion_err, plan_err};
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, ObjectName, ObjectNamePart, TableFactor, TableFunctionArgs, Value,
};

use crate::about::About;
use crate::answer::Answer;
use crate::info;
use crate::measure::{Measure, MlMeasure};
use crate::models::Models;
use crate::name::ModelName;
use crate::parse::ModelRef;
use crate::predict::{MlPredict, PredictSettings};
use crate::transform::MlTransform;

/// The schema of our functions.
const SCHEMA: &str = "ml";

/// What a relation reads.
const FUNCTIONS: [&str; 11] = [
    "predict",
    "explain_predict",
    "embed",
    "reconstruction_loss",
    "evaluate",
    "confusion_matrix",
    "roc_curve",
    "training_info",
    "feature_info",
    "trial_info",
    "transform",
];

/// Features that an explanation names, unless it is told otherwise.
const TOP_FEATURES: usize = 5;

/// Orders of features that an explanation tries, unless it is told otherwise.
const ORDERS: usize = 10;

/// Each costs as many predictions a row as there are features.
const MOST_ORDERS: usize = 1000;

const NO_ROWS: &str = "expected TABLE name or (query) behind the model";

/// Knows the relations of a session's models.
#[derive(Debug)]
pub(crate) struct MlRelations {
    pub(crate) models: Arc<Models>,
}

/// A call, taken apart.
struct Call {
    function: String,
    model: ModelName,
    version: Option<u64>,
    rows: Option<Box<ast::Query>>,
    settings: Vec<(String, ast::Expr)>,
}

impl RelationPlanner for MlRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::Table { name, alias, args: Some(args), .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let Some(function) = function_of(name) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let alias = alias.clone();
        let call = Call::new(function, args)?;
        let plan = self.plan(call, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// `predict` of `ml.predict`.
fn function_of(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(function)]
            if schema.value.eq_ignore_ascii_case(SCHEMA) =>
        {
            Some(function.value.to_ascii_lowercase())
        }
        _ => None,
    }
}

impl Call {
    fn new(function: String, args: &TableFunctionArgs) -> Result<Call> {
        if !FUNCTIONS.contains(&function.as_str()) {
            let known: Vec<String> = FUNCTIONS.iter().map(|f| format!("ML.{}", f.to_uppercase())).collect();
            return plan_err!(
                "there is no relation ML.{}; there are {}",
                function.to_uppercase(),
                known.join(", ")
            );
        }
        let shown = format!("ML.{}", function.to_uppercase());
        let mut args = args.args.iter();
        let (model, version) = match args.next() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Value(value)))) => {
                match &value.value {
                    Value::SingleQuotedString(text) => ModelRef::decode(text)?,
                    other => return plan_err!("{shown}: expected MODEL name, found {other}"),
                }
            }
            Some(other) => return plan_err!("{shown}: expected MODEL name, found {other}"),
            None => return plan_err!("{shown}: expected MODEL name"),
        };
        let mut call = Call { function, model, version, rows: None, settings: Vec::new() };
        for arg in args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Subquery(query)))
                    if call.rows.is_none() =>
                {
                    call.rows = Some(query.clone());
                }
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                    call.settings.push((name.value.to_ascii_lowercase(), value.clone()));
                }
                FunctionArg::ExprNamed {
                    name: ast::Expr::Identifier(name),
                    arg: FunctionArgExpr::Expr(value),
                    ..
                } => {
                    call.settings.push((name.value.to_ascii_lowercase(), value.clone()));
                }
                other => {
                    return plan_err!(
                        "{shown}: expected TABLE name, (query) or setting => value, found {other}"
                    );
                }
            }
        }
        Ok(call)
    }

    fn shown(&self) -> String {
        format!("ML.{}", self.function.to_uppercase())
    }

    /// The rows that it is about.
    fn input(&self, context: &mut dyn RelationPlannerContext) -> Result<Option<Arc<LogicalPlan>>> {
        let Some(query) = &self.rows else { return Ok(None) };
        let derived =
            TableFactor::Derived { lateral: false, subquery: query.clone(), alias: None, sample: None };
        Ok(Some(Arc::new(context.plan(derived)?)))
    }

    /// As [`Call::input`], where there must be some.
    fn rows(&self, context: &mut dyn RelationPlannerContext) -> Result<Arc<LogicalPlan>> {
        self.input(context)?.ok_or_else(|| plan_datafusion_err!("{}: {NO_ROWS}", self.shown()))
    }

    /// The settings, each a constant, checked by `take`.
    fn settings(
        &self,
        context: &mut dyn RelationPlannerContext,
        known: &[&str],
        take: &mut dyn FnMut(&str, ScalarValue) -> Result<()>,
    ) -> Result<()> {
        for (i, (name, value)) in self.settings.iter().enumerate() {
            if self.settings[..i].iter().any(|(other, _)| other == name) {
                return plan_err!("{}: setting '{name}' is given twice", self.shown());
            }
            if !known.contains(&name.as_str()) {
                let list = if known.is_empty() { "none".to_string() } else { known.join(", ") };
                return plan_err!("{}: unknown setting '{name}'; there are: {list}", self.shown());
            }
            match context.sql_to_expr(value.clone(), &DFSchema::empty())? {
                Expr::Literal(value, _) => take(name, value)?,
                other => return plan_err!("{}: {name} expects a constant, got {other}", self.shown()),
            }
        }
        Ok(())
    }
}

impl MlRelations {
    fn plan(&self, call: Call, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        let snapshot = self.models.snapshot();
        let entry = snapshot.resolve(&call.model, call.version)?;
        let about = Arc::new(Models::about(entry)?);
        let measure = match call.function.as_str() {
            "predict" | "explain_predict" | "embed" | "reconstruction_loss" => {
                return scored(call, about, context);
            }
            "transform" => return transform(call, &about, context),
            "training_info" => {
                call.settings(context, &[], &mut |_, _| Ok(()))?;
                return info::training(entry);
            }
            "feature_info" => {
                call.settings(context, &[], &mut |_, _| Ok(()))?;
                return info::features(entry, &about);
            }
            "trial_info" => {
                call.settings(context, &[], &mut |_, _| Ok(()))?;
                return info::trials(entry);
            }
            "confusion_matrix" => Measure::Confusion,
            "roc_curve" => Measure::Roc,
            _ => Measure::Evaluate,
        };
        about.label()?;
        let mut threshold = None;
        call.settings(context, &["threshold"], &mut |name, value| {
            threshold = Some(fraction(name, &value)?);
            Ok(())
        })?;
        match call.input(context)? {
            Some(input) => {
                let node = MlMeasure::new(measure, input, (call.model, call.version), about, threshold)?;
                Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
            }
            None if measure == Measure::Evaluate && threshold.is_some() => {
                plan_err!("{}: threshold needs rows; what was held out was measured without", call.shown())
            }
            None if measure == Measure::Evaluate => info::evaluation(entry, &about),
            None => plan_err!("{}: {NO_ROWS}", call.shown()),
        }
    }
}

/// A relation that says something of each row.
fn scored(call: Call, about: Arc<About>, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let mut keep_original_columns = true;
    let (mut answer, own): (Answer, &[&str]) = match call.function.as_str() {
        "explain_predict" => {
            (Answer::Explain { top: TOP_FEATURES, orders: ORDERS }, &["top_k_features", "num_orders"])
        }
        "embed" => (Answer::Embed { layer: None }, &["layer"]),
        "reconstruction_loss" => (Answer::Loss { top: TOP_FEATURES }, &["top_k_features"]),
        _ => (Answer::Predict { threshold: None, top_k: None, probabilities: true }, &["threshold", "top_k"]),
    };
    let known: Vec<&str> = own.iter().copied().chain(["keep_original_columns"]).collect();
    call.settings(context, &known, &mut |name, value| {
        match (name, &mut answer) {
            ("threshold", Answer::Predict { threshold, .. }) => *threshold = Some(fraction(name, &value)?),
            ("top_k", Answer::Predict { top_k, .. }) => *top_k = Some(count(name, &value)?),
            ("top_k_features", Answer::Explain { top, .. } | Answer::Loss { top }) => {
                *top = count(name, &value)?
            }
            ("num_orders", Answer::Explain { orders, .. }) => {
                *orders = count(name, &value)?;
                if *orders > MOST_ORDERS {
                    return plan_err!("{name} is {orders}, expected at most {MOST_ORDERS}");
                }
            }
            ("layer", Answer::Embed { layer }) => *layer = Some(text(name, &value)?),
            _ => keep_original_columns = flag(name, &value)?,
        }
        Ok(())
    })?;
    let settings = PredictSettings { answer, keep_original_columns };
    let input = call.rows(context)?;
    let node = MlPredict::new(input, call.model, call.version, about, settings)?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

/// `ML.TRANSFORM`: the columns that the model reads, made of those of the query.
fn transform(call: Call, about: &About, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    call.settings(context, &[], &mut |_, _| Ok(()))?;
    let input = call.rows(context)?;
    let node = MlTransform::new(input, (call.model, call.version), about)?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

fn fraction(name: &str, value: &ScalarValue) -> Result<f64> {
    let number = value.cast_to(&arrow::datatypes::DataType::Float64);
    match number {
        Ok(ScalarValue::Float64(Some(number))) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => plan_err!("{name} expects a number from 0 to 1, got {value}"),
    }
}

fn count(name: &str, value: &ScalarValue) -> Result<usize> {
    match value {
        ScalarValue::Int64(Some(number)) if *number > 0 => Ok(*number as usize),
        _ => plan_err!("{name} expects a whole number from 1 on, got {value}"),
    }
}

fn text(name: &str, value: &ScalarValue) -> Result<String> {
    match value.try_as_str() {
        Some(Some(text)) => Ok(text.to_owned()),
        _ => plan_err!("{name} expects a string, got {value}"),
    }
}

fn flag(name: &str, value: &ScalarValue) -> Result<bool> {
    match value {
        ScalarValue::Boolean(Some(flag)) => Ok(*flag),
        _ => plan_err!("{name} expects TRUE or FALSE, got {value}"),
    }
}
