//! Inputs: a column each, and the nodes that encode them as the preprocessing does.

use firesteel_error::{Error, Result};
use firesteel_train::params::HandleInvalid;
use firesteel_train::{Encoding, Preprocessing, Scaling};

use crate::build::{Builder, Operator, cast, int};
use crate::proto::Element;

/// The string that stands for NULL, which ONNX has not: the empty one, or one that no column knows.
pub(crate) fn null_text(preprocessing: &Preprocessing) -> String {
    let known = |text: &str| {
        preprocessing.columns.iter().any(|column| match column {
            Encoding::Category { values, .. } | Encoding::OneHot { values, .. } => {
                values.iter().any(|v| v == text)
            }
            _ => false,
        })
    };
    let mut text = String::new();
    while known(&text) {
        text.push_str(if text.is_empty() { "NULL" } else { "_" });
    }
    text
}

/// Adds an input a column, in which the text `null` stands for NULL. Gives the values of the network's inputs, in the
/// order of [`Preprocessing::inputs`].
///
/// # Errors
/// `InvalidArgument` naming the column that cannot be an input.
pub(crate) fn add(builder: &mut Builder, preprocessing: &Preprocessing, null: &str) -> Result<Vec<String>> {
    for column in &preprocessing.columns {
        declare(builder, column, preprocessing.handle_invalid, null)?;
    }
    let columns = Columns { builder, keep: preprocessing.handle_invalid == HandleInvalid::Keep, null };
    columns.encode(&preprocessing.columns)
}

fn declare(builder: &mut Builder, column: &Encoding, invalid: HandleInvalid, null: &str) -> Result<()> {
    let name = column.column();
    if name.is_empty() {
        return Err(Error::argument("a feature column has an empty name, which no ONNX input may have"));
    }
    if !builder.claim(name) {
        return Err(Error::argument(format!(
            "feature column '{name}' has the name of an output or of another column of the ONNX file"
        )));
    }
    let missing = if invalid == HandleInvalid::Keep { "NaN is missing" } else { "finite" };
    let (element, width, about) = match column {
        Encoding::Number { .. } => (Element::Float, 1, format!("number, {missing}")),
        Encoding::Category { .. } | Encoding::OneHot { .. } => {
            (Element::String, 1, format!("string, \"{null}\" is NULL"))
        }
        Encoding::Vector { .. } => (Element::Float, column.width(), format!("vector, {missing}")),
    };
    builder.input(name, element, width, &about);
    Ok(())
}

struct Columns<'a> {
    builder: &'a mut Builder,
    /// Whether the mean takes the place of what is not finite.
    keep: bool,
    null: &'a str,
}

impl Columns<'_> {
    fn encode(mut self, columns: &[Encoding]) -> Result<Vec<String>> {
        let (mut numbers, mut standards, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for column in columns {
            match column {
                Encoding::Number { column, scaling } => {
                    numbers.push(column.as_str());
                    standards.push(Standard::of(column, scaling, self.keep)?);
                }
                Encoding::Category { column, values } => others.push(self.index(column, values)),
                Encoding::OneHot { column: name, values } => {
                    let index = self.index(name, values);
                    others.push(self.one_hot(name, &index, column.width()));
                }
                Encoding::Vector { column, shape, scaling } => {
                    let standard = Standard::of(column, scaling, self.keep)?;
                    others.push(self.vector(column, shape, &standard));
                }
            }
        }
        let mut inputs = Vec::with_capacity(others.len() + 1);
        if !numbers.is_empty() {
            let joined =
                self.builder.node(Operator::new("Concat").int("axis", 1), &numbers, "numbers_joined");
            inputs.push(self.scale(&joined, "numbers", &Standard::join(standards)));
        }
        inputs.extend(others);
        Ok(inputs)
    }

    /// `(N, 1)` strings to `(N)` rows of a table.
    fn index(&mut self, column: &str, values: &[String]) -> String {
        let known = (i64::from(Encoding::FIRST)..).take(values.len());
        let encoder = Operator::ml("LabelEncoder")
            .strings("keys_strings", std::iter::once(self.null).chain(values.iter().map(String::as_str)))
            .ints("values_int64s", std::iter::once(i64::from(Encoding::NULL)).chain(known))
            .int("default_int64", Encoding::UNKNOWN.into());
        let indices = self.builder.node(encoder, &[column], &format!("{column}.indices"));
        let axes = self.builder.constant(&format!("{column}.axes"), &[1], &[1i64]);
        self.builder.node(Operator::new("Squeeze"), &[&indices, &axes], &format!("{column}.index"))
    }

    /// `(N)` indices to `(N, width)`.
    fn one_hot(&mut self, column: &str, index: &str, width: usize) -> String {
        let depth = self.builder.constant(&format!("{column}.width"), &[], &[int(width)]);
        let off_on = self.builder.constant(&format!("{column}.off_on"), &[2], &[0.0f32, 1.0]);
        let operator = Operator::new("OneHot").int("axis", -1);
        self.builder.node(operator, &[index, &depth, &off_on], &format!("{column}.one_hot"))
    }

    /// `(N, width)` to `(N, shape…)`.
    fn vector(&mut self, column: &str, shape: &[usize], standard: &Standard) -> String {
        let scaled = self.scale(column, column, standard);
        if shape.len() == 1 {
            return scaled;
        }
        // 0 takes over the number of rows.
        let wanted: Vec<i64> = std::iter::once(0).chain(shape.iter().map(|axis| int(*axis))).collect();
        let wanted = self.builder.constant(&format!("{column}.shape"), &[wanted.len()], &wanted);
        self.builder.node(Operator::new("Reshape"), &[&scaled, &wanted], &format!("{column}.shaped"))
    }

    /// In f64, as the preprocessing scales: a mean far above the deviation would cost an f32 its digits.
    fn scale(&mut self, value: &str, name: &str, standard: &Standard) -> String {
        let name = |what: &str| format!("{name}.{what}");
        let width = [standard.mean.len()];
        let mut value = value.to_owned();
        if standard.changes() {
            let mean = self.builder.constant(&name("mean"), &width, &standard.mean);
            let deviation = self.builder.constant(&name("deviation"), &width, &standard.deviation);
            let wide = self.builder.node(cast(Element::Double), &[&value], &name("wide"));
            let centered = self.builder.node(Operator::new("Sub"), &[&wide, &mean], &name("centered"));
            let scaled = self.builder.node(Operator::new("Div"), &[&centered, &deviation], &name("scaled"));
            value = self.builder.node(cast(Element::Float), &[&scaled], &name("standard"));
        }
        if self.keep {
            let instead = self.builder.constant(&name("instead"), &width, &standard.instead);
            let none = self.builder.node(Operator::new("IsNaN"), &[&value], &name("none"));
            let infinite = self.builder.node(Operator::new("IsInf"), &[&value], &name("infinite"));
            let missing = self.builder.node(Operator::new("Or"), &[&none, &infinite], &name("missing"));
            value = self.builder.node(Operator::new("Where"), &[&missing, &instead, &value], &name("filled"));
        }
        value
    }
}

/// `(x − mean) / deviation`, and what stands where that is not finite. As long as the values, or 1.
struct Standard {
    mean: Vec<f64>,
    deviation: Vec<f64>,
    instead: Vec<f32>,
}

impl Standard {
    fn of(column: &str, scaling: &Scaling, keep: bool) -> Result<Standard> {
        let width = scaling.mean.len();
        if scaling.standardize {
            let (mean, deviation) = (scaling.mean.clone(), scaling.deviation.clone());
            return Ok(Standard { mean, deviation, instead: vec![0.0; width] });
        }
        let instead: Vec<f32> = scaling.mean.iter().map(|m| *m as f32).collect();
        if let Some(at) = instead.iter().position(|i| keep && !i.is_finite()) {
            return Err(Error::argument(format!(
                "column '{column}' has the mean {:e}, too large for an f32 to take the place of missing values",
                scaling.mean[at]
            )));
        }
        Ok(Standard { mean: vec![0.0; width], deviation: vec![1.0; width], instead })
    }

    fn join(parts: Vec<Standard>) -> Standard {
        let mut all = Standard { mean: Vec::new(), deviation: Vec::new(), instead: Vec::new() };
        for part in parts {
            all.mean.extend(part.mean);
            all.deviation.extend(part.deviation);
            all.instead.extend(part.instead);
        }
        all
    }

    fn changes(&self) -> bool {
        self.mean.iter().any(|m| *m != 0.0) || self.deviation.iter().any(|d| *d != 1.0)
    }
}
