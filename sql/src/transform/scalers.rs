//! The functions `ML.…` of `TRANSFORM`, by the names and meanings of BigQuery ML.

use std::fmt::Write;
use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectNamePart, Value, visit_expressions,
};

use super::ask::{ROWS, Statistic, words};

/// A function of ours.
struct Function {
    name: &'static str,
    /// Its arguments, for messages.
    arguments: &'static str,
    /// Whether it is about all rows, and has `OVER ()` behind it.
    over: bool,
    /// How few and how many arguments it has.
    count: (usize, usize),
}

const fn function(
    name: &'static str,
    arguments: &'static str,
    over: bool,
    count: (usize, usize),
) -> Function {
    Function { name, arguments, over, count }
}

/// All of them; [`Scaler::new`] reads their arguments.
const FUNCTIONS: [Function; 11] = [
    function("standard_scaler", "number", true, (1, 1)),
    function("min_max_scaler", "number", true, (1, 1)),
    function("max_abs_scaler", "number", true, (1, 1)),
    function("robust_scaler", "number [, [low, high]], ascending percentiles of 0 to 100", true, (1, 2)),
    function("quantile_bucketize", "number, 2 to 1000 buckets", true, (2, 2)),
    function("imputer", "value, 'mean' | 'median' | 'most_frequent'", true, (2, 2)),
    function("label_encoder", "value [, top_k [, frequency_threshold]]", true, (1, 3)),
    function("one_hot_encoder", "value [, top_k [, frequency_threshold]]", true, (1, 3)),
    function("bucketize", "number, [point, ..] ascending", false, (2, 2)),
    function("feature_cross", "STRUCT(value, value, ..)", false, (1, 1)),
    function("polynomial_expand", "STRUCT(number, ..) [, degree]", false, (1, 2)),
];

/// Most values that an encoder has places for, unless it is told otherwise.
const TOP_K: u64 = 1000;

/// Rows that a value must be in to get a place, unless it is told otherwise.
const FREQUENCY_THRESHOLD: u64 = 5;

/// Of the t-digest (Dunning 2019) that percentiles are read from: they err by less than a thousandth of the rows.
const CENTROIDS: u32 = 1000;

/// The largest finite number.
const MOST: f64 = f64::MAX;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scaler {
    /// What it is of, as SQL.
    of: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Standard,
    MinMax,
    MaxAbs,
    /// Percentiles that are one apart afterwards.
    Robust(f64, f64),
    Quantiles(u64),
    Mean,
    Median,
    MostFrequent,
    Label {
        top: u64,
        least: u64,
    },
    OneHot {
        top: u64,
        least: u64,
    },
    Buckets(Vec<f64>),
    /// Expressions and their names.
    Cross(Vec<(String, String)>),
    Polynomial(Vec<(String, String)>, u64),
}

impl Scaler {
    /// Whether an expression calls a function of the schema `ml`.
    pub(super) fn is_one(expr: &Expr) -> bool {
        called(expr).is_some()
    }

    /// Reads a call.
    ///
    /// # Errors
    /// `Plan` naming the function, what was found and what was expected.
    pub(super) fn of(expr: &Expr) -> Result<Scaler> {
        let Some((name, call)) = called(expr) else { return plan_err!("'{expr}' is no function of ML") };
        let Some(function) = FUNCTIONS.iter().find(|f| f.name == name) else {
            let all: Vec<String> = FUNCTIONS.iter().map(Function::shown).collect();
            return plan_err!(
                "there is no function ML.{}; there are {}",
                name.to_uppercase(),
                all.join(", ")
            );
        };
        let shown = function.shown();
        match (function.over, &call.over) {
            (true, None) => return plan_err!("{shown} is about all rows: add OVER () behind it"),
            (false, Some(_)) => return plan_err!("{shown} is about one row: leave OVER () out"),
            (true, Some(ast::WindowType::WindowSpec(spec))) if !spec.to_string().is_empty() => {
                return plan_err!("{shown}: OVER ({spec}) expected to be empty");
            }
            _ => {}
        }
        let plain = call.filter.is_none()
            && call.null_treatment.is_none()
            && call.within_group.is_empty()
            && matches!(call.parameters, FunctionArguments::None)
            && !matches!(call.over, Some(ast::WindowType::NamedWindow(_)));
        if !plain {
            return plan_err!("{shown} takes its arguments and OVER (), and nothing besides");
        }
        let arguments = arguments(call)?;
        let (least, most) = function.count;
        if !(least..=most).contains(&arguments.len()) {
            return plan_err!("{shown} expects ({}), got {} arguments", function.arguments, arguments.len());
        }
        for argument in &arguments {
            let nested = visit_expressions(*argument, |e| match Scaler::is_one(e) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            });
            if nested.is_break() {
                return plan_err!("{shown} reads the query's columns, not the result of another ML function");
            }
        }
        let refused = |argument: &Expr| plan_err!("{shown} expects ({}), got {argument}", function.arguments);
        let kind = match (function.name, arguments.as_slice()) {
            ("standard_scaler", _) => Kind::Standard,
            ("min_max_scaler", _) => Kind::MinMax,
            ("max_abs_scaler", _) => Kind::MaxAbs,
            ("robust_scaler", [_]) => Kind::Robust(25.0, 75.0),
            ("robust_scaler", [_, range]) => match numbers(range).as_deref() {
                Some([low, high]) if (0.0..*high).contains(low) && *high <= 100.0 => {
                    Kind::Robust(*low, *high)
                }
                _ => return refused(range),
            },
            ("quantile_bucketize", [_, buckets]) => match whole(buckets) {
                Some(n) if (2..=1000).contains(&n) => Kind::Quantiles(n),
                _ => return refused(buckets),
            },
            ("imputer", [_, strategy]) => match text(strategy).as_deref() {
                Some("mean") => Kind::Mean,
                Some("median") => Kind::Median,
                Some("most_frequent") => Kind::MostFrequent,
                _ => return refused(strategy),
            },
            ("label_encoder" | "one_hot_encoder", [_, limits @ ..]) => {
                let mut read = [TOP_K, FREQUENCY_THRESHOLD];
                for (place, limit) in read.iter_mut().zip(limits) {
                    match whole(limit) {
                        Some(n) if n > 0 => *place = n,
                        _ => return refused(limit),
                    }
                }
                let [top, least] = read;
                match function.name {
                    "label_encoder" => Kind::Label { top, least },
                    _ => Kind::OneHot { top, least },
                }
            }
            ("bucketize", [_, points]) => match numbers(points) {
                Some(points) if !points.is_empty() && points.is_sorted() => Kind::Buckets(points),
                _ => return refused(points),
            },
            ("feature_cross", [of]) => match fields(of) {
                Some(fields) if fields.len() > 1 => Kind::Cross(fields),
                _ => return refused(of),
            },
            (_, [of, degree @ ..]) => {
                let read = degree.first().map_or(Some(2), |d| whole(d));
                match (fields(of), read) {
                    (Some(fields), Some(degree @ 1..=4)) if !fields.is_empty() => {
                        Kind::Polynomial(fields, degree)
                    }
                    _ => return refused(degree.first().unwrap_or(of)),
                }
            }
            (_, []) => return plan_err!("{shown} expects ({})", function.arguments),
        };
        Ok(Scaler { of: arguments[0].to_string(), kind })
    }

    fn number(&self) -> String {
        format!("CAST(({}) AS DOUBLE)", self.of)
    }

    /// What must be known of the training rows.
    pub(super) fn statistics(&self) -> Vec<Statistic> {
        // What is not finite counts as missing, as everywhere.
        let (x, of) = (format!("CASE WHEN abs({0}) <= {MOST:?} THEN {0} END", self.number()), &self.of);
        let percentile =
            |share: f64| Statistic::Aggregate(format!("approx_percentile_cont({x}, {share:?}, {CENTROIDS})"));
        let aggregates = |of: &[&str]| of.iter().map(|f| Statistic::Aggregate(format!("{f}({x})"))).collect();
        match &self.kind {
            Kind::Standard => aggregates(&["avg", "stddev_pop"]),
            Kind::MinMax | Kind::MaxAbs => aggregates(&["min", "max"]),
            Kind::Robust(low, high) => [low / 100.0, 0.5, high / 100.0].map(percentile).into(),
            Kind::Quantiles(buckets) => {
                (1..*buckets).map(|i| percentile(i as f64 / *buckets as f64)).collect()
            }
            Kind::Mean => aggregates(&["avg"]),
            Kind::Median => vec![percentile(0.5)],
            Kind::MostFrequent => vec![Statistic::Query(format!(
                "SELECT v FROM (SELECT ({of}) AS v, count(*) AS n FROM {ROWS} GROUP BY 1) WHERE v IS NOT NULL \
                 ORDER BY n DESC, v LIMIT 1"
            ))],
            Kind::Label { top, least } | Kind::OneHot { top, least } => vec![Statistic::Query(format!(
                "SELECT array_agg(v ORDER BY v) FROM (SELECT CAST(({of}) AS VARCHAR) AS v, count(*) AS n FROM {ROWS} \
                 WHERE ({of}) IS NOT NULL GROUP BY 1 HAVING count(*) >= {least} ORDER BY n DESC, v LIMIT {top})"
            ))],
            Kind::Buckets(_) | Kind::Cross(_) | Kind::Polynomial(..) => Vec::new(),
        }
    }

    /// Answers to [`Scaler::statistics`] that no rows gave.
    pub(super) fn example(&self) -> Vec<ScalarValue> {
        match &self.kind {
            Kind::Label { .. } | Kind::OneHot { .. } => {
                let list = ScalarValue::new_list(&[ScalarValue::from("a")], &DataType::Utf8, true);
                vec![ScalarValue::List(list)]
            }
            // Whatever it will be, it has the type of the column.
            Kind::MostFrequent => vec![ScalarValue::Null],
            _ => (0..self.statistics().len()).map(|i| ScalarValue::from(i as f64)).collect(),
        }
    }

    /// The expression that it stands for, with the answers to [`Scaler::statistics`] in it.
    ///
    /// # Errors
    /// `Plan` when there is no answer, because the training rows have no value.
    pub(super) fn sql(&self, known: &[ScalarValue]) -> Result<String> {
        let (x, of) = (self.number(), &self.of);
        let value = |i: usize| match known.get(i).map(|v| v.cast_to(&DataType::Float64)) {
            Some(Ok(ScalarValue::Float64(Some(value)))) if value.is_finite() => Ok(value),
            _ => plan_err!("'{of}' has no finite value in the training rows"),
        };
        // What does not vary becomes 0.
        let width = |width: f64| literal(if width > 0.0 { width } else { 1.0 });
        Ok(match &self.kind {
            Kind::Standard => format!("({x} - {}) / {}", literal(value(0)?), width(value(1)?)),
            Kind::MinMax => {
                let (low, high) = (value(0)?, value(1)?);
                let scaled = format!("({x} - {}) / {}", literal(low), width(high - low));
                let (low, high) = (literal(low), literal(high));
                format!(
                    "CASE WHEN isnan({x}) THEN NULL WHEN {x} < {low} THEN 0.0 WHEN {x} > {high} THEN 1.0 ELSE {scaled} END"
                )
            }
            Kind::MaxAbs => {
                let most = value(0)?.abs().max(value(1)?.abs());
                let scaled = format!("{x} / {}", width(most));
                let (low, high) = (literal(-most), literal(most));
                format!(
                    "CASE WHEN isnan({x}) THEN NULL WHEN {x} < {low} THEN -1.0 WHEN {x} > {high} THEN 1.0 ELSE {scaled} END"
                )
            }
            Kind::Robust(..) => {
                format!("({x} - {}) / {}", literal(value(1)?), width(value(2)? - value(0)?))
            }
            Kind::Quantiles(buckets) => {
                let points = (0..*buckets as usize - 1).map(value).collect::<Result<Vec<_>>>()?;
                in_buckets(&x, &points)
            }
            Kind::Mean | Kind::Median => format!("coalesce({x}, {})", literal(value(0)?)),
            Kind::MostFrequent => match known.first() {
                Some(ScalarValue::Null) => of.clone(),
                Some(value) if !value.is_null() => format!("coalesce({of}, {})", constant(value)),
                _ => return plan_err!("'{of}' has no value in the training rows"),
            },
            Kind::Label { .. } => {
                let words = known.first().map(words).unwrap_or_default();
                let mut sql = format!("CASE CAST(({of}) AS VARCHAR)");
                for (i, word) in words.iter().enumerate() {
                    // To a string nothing is refused.
                    _ = write!(sql, " WHEN {} THEN {}", quoted(word), i + 1);
                }
                if words.is_empty() { "0".into() } else { format!("{sql} ELSE 0 END") }
            }
            Kind::OneHot { .. } => {
                let words = known.first().map(words).unwrap_or_default();
                if words.is_empty() {
                    return plan_err!("no value of '{of}' is frequent enough in the training rows");
                }
                let place = |word: &String| {
                    format!("CASE WHEN CAST(({of}) AS VARCHAR) = {} THEN 1.0 ELSE 0.0 END", quoted(word))
                };
                format!("make_array({})", words.iter().map(place).collect::<Vec<_>>().join(", "))
            }
            Kind::Buckets(points) => in_buckets(&x, points),
            Kind::Cross(fields) => crossed(fields),
            Kind::Polynomial(fields, degree) => powers(fields, *degree),
        })
    }
}

impl Function {
    fn shown(&self) -> String {
        format!("ML.{}", self.name.to_uppercase())
    }
}

/// The function of `ml` that is called, in lower case.
fn called(expr: &Expr) -> Option<(String, &ast::Function)> {
    let Expr::Function(call) = expr else { return None };
    match call.name.0.as_slice() {
        [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(name)]
            if schema.value.eq_ignore_ascii_case("ml") =>
        {
            Some((name.value.to_ascii_lowercase(), call))
        }
        _ => None,
    }
}

fn arguments(call: &ast::Function) -> Result<Vec<&Expr>> {
    let FunctionArguments::List(list) = &call.args else {
        return plan_err!("{call}: expected arguments in brackets");
    };
    if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return plan_err!("{}: expected arguments and nothing besides", call.name);
    }
    let plain = |argument| match argument {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref expr)) => Ok(expr),
        other => plan_err!("{}: expected an expression, got {other}", call.name),
    };
    list.args.iter().map(plain).collect()
}

fn number(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.to_string().parse().ok(),
            _ => None,
        },
        Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => number(expr).map(|n| -n),
        Expr::Nested(expr) => number(expr),
        _ => None,
    }
}

fn numbers(expr: &Expr) -> Option<Vec<f64>> {
    match expr {
        Expr::Array(array) => array.elem.iter().map(number).collect(),
        _ => None,
    }
}

fn whole(expr: &Expr) -> Option<u64> {
    number(expr).filter(|n| n.fract() == 0.0 && (0.0..1e15).contains(n)).map(|n| n as u64)
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.to_lowercase()),
            _ => None,
        },
        _ => None,
    }
}

/// The expressions of `STRUCT(a, b AS c)` and their names.
fn fields(expr: &Expr) -> Option<Vec<(String, String)>> {
    let field = |expr: &Expr| match expr {
        Expr::Named { expr, name } => Some((expr.to_string(), name.value.clone())),
        Expr::Identifier(name) => Some((name.to_string(), name.value.clone())),
        _ => None,
    };
    match expr {
        Expr::Struct { values, .. } => values.iter().map(field).collect(),
        Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("struct") => {
            arguments(call).ok()?.into_iter().map(field).collect()
        }
        _ => None,
    }
}

/// A number that reads back as it was.
fn literal(value: f64) -> String {
    if value < 0.0 { format!("({value:?})") } else { format!("{value:?}") }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A value as SQL, in its type.
fn constant(value: &ScalarValue) -> String {
    let text = value.cast_to(&DataType::Utf8).ok();
    match (value.try_as_str(), text.as_ref().and_then(ScalarValue::try_as_str)) {
        (Some(Some(text)), _) => quoted(text),
        (_, Some(Some(text))) => format!("arrow_cast({}, '{}')", quoted(text), value.data_type()),
        _ => format!("arrow_cast('{value}', '{}')", value.data_type()),
    }
}

/// `bin_1` below the first point, and so on.
fn in_buckets(x: &str, points: &[f64]) -> String {
    let mut sql = format!("CASE WHEN {x} IS NULL OR isnan({x}) THEN NULL");
    for (i, point) in points.iter().enumerate() {
        _ = write!(sql, " WHEN {x} < {} THEN 'bin_{}'", literal(*point), i + 1);
    }
    format!("{sql} ELSE 'bin_{}' END", points.len() + 1)
}

/// A struct of the pairs, as text.
fn crossed(fields: &[(String, String)]) -> String {
    let mut parts = Vec::new();
    for (i, (a, a_name)) in fields.iter().enumerate() {
        for (b, b_name) in &fields[i + 1..] {
            let both = format!("CAST(({a}) AS VARCHAR) || '_' || CAST(({b}) AS VARCHAR)");
            parts.push(format!("{}, {both}", quoted(&format!("{a_name}_{b_name}"))));
        }
    }
    format!("named_struct({})", parts.join(", "))
}

/// A struct of all products of up to `degree` factors.
fn powers(fields: &[(String, String)], degree: u64) -> String {
    let mut parts = Vec::new();
    let mut products: Vec<(String, String, usize)> = vec![(String::new(), String::new(), 0)];
    for _ in 0..degree {
        let mut longer = Vec::new();
        for (sql, name, from) in &products {
            for (i, (factor, factor_name)) in fields.iter().enumerate().skip(*from) {
                let factor = format!("CAST(({factor}) AS DOUBLE)");
                let made = match sql.is_empty() {
                    true => (factor, factor_name.clone(), i),
                    false => (format!("{sql} * {factor}"), format!("{name}_{factor_name}"), i),
                };
                parts.push(format!("{}, {}", quoted(&made.1), made.0));
                longer.push(made);
            }
        }
        products = longer;
    }
    format!("named_struct({})", parts.join(", "))
}
