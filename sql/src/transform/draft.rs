//! From the items of a statement to what is kept with the model.

use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::Expr;
use datafusion::sql::sqlparser::ast::{self, Ident, visit_expressions, visit_expressions_mut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::ask::Statistic;
use super::scalers::Scaler;
use super::{Input, Item, Made, Transform, is_written, planned};
use crate::parse::TransformItem;
use crate::spec::TrainSpec;

/// `TRANSFORM (…)`, before the rows are known.
#[derive(Debug)]
pub(crate) struct Draft {
    items: Vec<Written>,
    query: Schema,
    label: Option<String>,
    /// Items that are no features.
    aside: Vec<String>,
}

/// An item as the user wrote it.
#[derive(Debug)]
struct Written {
    name: String,
    expr: ast::Expr,
    sql: String,
    /// The functions of ours in it, in the order in which they are found.
    scalers: Vec<Scaler>,
}

impl Draft {
    /// Checks the items against the columns of the query before a row is read.
    ///
    /// # Errors
    /// `Plan` naming the item.
    pub(crate) fn new(items: &[TransformItem], query: &Schema, spec: &TrainSpec) -> Result<Draft> {
        let label = spec.label.as_deref();
        let mut written: Vec<Written> = Vec::new();
        for item in items {
            match &item.expr {
                ast::Expr::Wildcard(_) => {
                    for field in query.fields() {
                        let ident = Ident::with_quote('"', field.name());
                        written.push(Written {
                            name: field.name().clone(),
                            sql: ident.to_string(),
                            expr: ast::Expr::Identifier(ident),
                            scalers: Vec::new(),
                        });
                    }
                }
                expr => written.push(Written {
                    name: name(item)?,
                    expr: expr.clone(),
                    sql: item.sql.clone(),
                    scalers: scalers(item)?,
                }),
            }
        }
        for (i, item) in written.iter().enumerate() {
            if written[..i].iter().any(|other| other.name == item.name) {
                return plan_err!("TRANSFORM makes column '{}' twice; name one with AS", item.name);
            }
        }
        if let Some(label) = label
            && !written.iter().any(|item| item.name == label)
        {
            return plan_err!("TRANSFORM leaves the label '{label}' out; add it as an item");
        }
        let feature = |name: &String| match &spec.features {
            Some(features) => features.contains(name),
            None => !spec.left_out.contains(name) && spec.weight.as_ref() != Some(name),
        };
        let aside = written.iter().map(|item| &item.name).filter(|name| !feature(name)).cloned().collect();
        Ok(Draft { items: written, query: query.clone(), label: label.map(str::to_owned), aside })
    }

    /// What is asked of the training rows.
    pub(crate) fn statistics(&self) -> Vec<Statistic> {
        self.items.iter().flat_map(|item| &item.scalers).flat_map(Scaler::statistics).collect()
    }

    /// What is kept, with the answers to [`Draft::statistics`].
    ///
    /// # Errors
    /// `Plan` naming the item of which nothing is known because all its rows are NULL.
    pub(crate) fn settle(&self, answers: &[ScalarValue]) -> Result<Transform> {
        let mut left = answers;
        self.with(&mut |scaler| {
            let (known, behind) = left.split_at(scaler.statistics().len().min(left.len()));
            left = behind;
            scaler.sql(known)
        })
    }

    /// As [`Draft::settle`] with made-up answers: the names and types of columns are those of the training.
    pub(crate) fn typed(&self) -> Result<Transform> {
        self.with(&mut |scaler| scaler.sql(&scaler.example()))
    }

    fn with(&self, sql: &mut dyn FnMut(&Scaler) -> Result<String>) -> Result<Transform> {
        let known = DFSchema::try_from(self.query.clone())?;
        let (mut features, mut label, mut aside) = (Vec::new(), None, Vec::new());
        for item in &self.items {
            let mut scalers = item.scalers.iter();
            let mut expr = item.expr.clone();
            let replaced = visit_expressions_mut(&mut expr, |expr| {
                if !Scaler::is_one(expr) {
                    return ControlFlow::Continue(());
                }
                match scalers.next().map(|s| sql(s).and_then(|sql| parsed(&sql))) {
                    Some(Ok(made)) => *expr = ast::Expr::Nested(Box::new(made)),
                    Some(Err(e)) => {
                        return ControlFlow::Break(e.context(format!("TRANSFORM item '{}'", item.sql)));
                    }
                    None => {}
                }
                ControlFlow::Continue(())
            });
            if let ControlFlow::Break(e) = replaced {
                return Err(e);
            }
            let made = Item { name: item.name.clone(), sql: expr.to_string(), written: item.sql.clone() };
            match &item.name {
                name if self.label.as_ref() == Some(name) => label = Some(made),
                name if self.aside.contains(name) => aside.push(made),
                _ => features.push(made),
            }
        }
        let made = |items: Vec<Item>| -> Result<Made> {
            let exprs = items.iter().map(|item| planned(item, &known)).collect::<Result<Vec<_>>>()?;
            Ok(Made { inputs: self.inputs(&exprs)?, items })
        };
        let aside = if aside.is_empty() { None } else { Some(made(aside)?) };
        let label = label.map(|label| made(vec![label])).transpose()?;
        Ok(Transform { features: made(features)?, label, aside })
    }

    /// The columns that expressions read.
    fn inputs(&self, exprs: &[Expr]) -> Result<Vec<Input>> {
        let reads = |name: &str| exprs.iter().any(|e| e.column_refs().iter().any(|c| c.name == name));
        let mut inputs = Vec::new();
        for field in self.query.fields().iter().filter(|f| reads(f.name())) {
            let (column, data_type) = (field.name(), field.data_type());
            if !is_written(column, data_type) {
                return plan_err!(
                    "TRANSFORM reads column '{column}', {data_type}; take it apart in the query"
                );
            }
            inputs.push(Input { column: column.clone(), data_type: data_type.to_string() });
        }
        Ok(inputs)
    }
}

/// What an item is called.
fn name(item: &TransformItem) -> Result<String> {
    let named = match (&item.alias, &item.expr) {
        (Some(alias), _) => Some(alias.clone()),
        (None, ast::Expr::Identifier(ident)) => Some(plain(ident)),
        (None, ast::Expr::CompoundIdentifier(parts)) => parts.last().map(plain),
        _ => None,
    };
    match named {
        Some(name) => Ok(name),
        None => plan_err!("TRANSFORM item '{}' has no name; add AS name", item.sql),
    }
}

fn plain(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The functions of ours in an item.
fn scalers(item: &TransformItem) -> Result<Vec<Scaler>> {
    let mut scalers = Vec::new();
    let visited = visit_expressions(&item.expr, |expr| {
        if !Scaler::is_one(expr) {
            return ControlFlow::Continue(());
        }
        match Scaler::of(expr) {
            Ok(scaler) => {
                scalers.push(scaler);
                ControlFlow::Continue(())
            }
            Err(e) => ControlFlow::Break(e.context(format!("TRANSFORM item '{}'", item.sql))),
        }
    });
    match visited {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(scalers),
    }
}

fn parsed(sql: &str) -> Result<ast::Expr> {
    let parsed = Parser::new(&GenericDialect {}).try_with_sql(sql).and_then(|mut parser| parser.parse_expr());
    parsed.map_err(|e| DataFusionError::SQL(Box::new(e), None))
}
