//! What planning needs to know of a model: kept in the commit of its version, so that no weights are read for it.

use std::collections::HashSet;
use std::fmt;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::common::{Result, ScalarValue, plan_err};
use firesteel_train::{Encoding, Model, ModelInfo, Task};
use serde::{Deserialize, Serialize};

use crate::encode::{Feature, FeatureKind, find_type};
use crate::transform::Transform;

/// A model's task, its label and the columns it reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// As the user gave it, `dnn_classifier` for example.
    pub model_type: String,
    /// What it predicts, if it learned a label.
    pub label: Option<Label>,
    /// What it reads, in the order of the training query, or of the items of `TRANSFORM`.
    pub features: Vec<Feature>,
    /// Whether a string that training has not seen is an error, and not a category of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuses_unseen: bool,
    /// What the features are made of, where the query's columns are not read as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
}

/// What a model predicts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The column.
    pub column: String,
    /// Its Arrow type, as [`DataType`] prints it.
    pub data_type: String,
    /// Of a classifier: the classes, as text, in the order of the network's outputs.
    pub classes: Option<Vec<String>>,
}

impl About {
    /// Of a model that another face of Firesteel made.
    pub fn of(model: &Model) -> About {
        let ModelInfo { task, outputs, .. } = model.info();
        let kind = |encoding: &Encoding| match encoding {
            Encoding::Number { .. } => (FeatureKind::Number, DataType::Float64),
            Encoding::Category { .. } | Encoding::OneHot { .. } => (FeatureKind::Text, DataType::Utf8),
            Encoding::Vector { shape, .. } => {
                let item = Field::new_list_field(DataType::Float32, true);
                (FeatureKind::Vector { width: Some(shape.iter().product()) }, DataType::List(item.into()))
            }
        };
        let feature = |encoding: &Encoding| {
            let (kind, data_type) = kind(encoding);
            Feature { column: encoding.column().into(), root: None, data_type: data_type.to_string(), kind }
        };
        let classes = (task == Task::Classification).then(|| (0..outputs).map(|c| c.to_string()).collect());
        let (model_type, data_type) = match task {
            Task::Classification => ("dnn_classifier", Some(DataType::Int64)),
            Task::Regression => ("dnn_regressor", Some(DataType::Float64)),
            Task::Reconstruction => ("autoencoder", None),
        };
        let label = data_type.map(|data_type| Label {
            column: model.label().into(),
            data_type: data_type.to_string(),
            classes,
        });
        About {
            model_type: model_type.into(),
            label,
            features: model.preprocessing().columns.iter().map(feature).collect(),
            refuses_unseen: false,
            transform: None,
        }
    }

    /// The label.
    ///
    /// # Errors
    /// `Plan` when the model has none.
    pub fn label(&self) -> Result<&Label> {
        match &self.label {
            Some(label) => Ok(label),
            None => plan_err!(
                "a model of type {} predicts no label{}",
                self.model_type,
                match self.model_type.as_str() {
                    "autoencoder" => "; ask ML.RECONSTRUCTION_LOSS or ML.EMBED",
                    _ => "; ask ML.TRANSFORM",
                }
            ),
        }
    }

    /// Of a classifier: the classes, as text, in the order of the network's outputs.
    pub fn classes(&self) -> Option<&[String]> {
        self.label.as_ref()?.classes.as_deref()
    }

    /// Whether it tells two classes apart.
    pub(crate) fn is_binary(&self) -> bool {
        self.classes().is_some_and(|classes| classes.len() == 2)
    }

    /// The column of predictions.
    pub fn predicted(&self) -> String {
        format!("predicted_{}", self.label.as_ref().map_or("label", |l| &l.column))
    }

    /// The column of class probabilities.
    pub fn probabilities(&self) -> String {
        format!("{}_probs", self.predicted())
    }

    /// Checks that a query has what the model reads.
    ///
    /// # Errors
    /// `Plan` naming the column that is missing or of another type.
    pub fn check(&self, shown: &str, schema: &Schema) -> Result<()> {
        match &self.transform {
            Some(transform) => transform.features.check(shown, schema),
            None => self.features.iter().try_for_each(|feature| feature.check(shown, schema)),
        }
    }

    /// Checks that a query has the label.
    ///
    /// # Errors
    /// `Plan` naming the column that is missing.
    pub(crate) fn check_label(&self, shown: &str, schema: &Schema) -> Result<()> {
        let label = self.label()?;
        match self.transform.as_ref().and_then(|transform| transform.label.as_ref()) {
            Some(made) => made.check(shown, schema),
            None if find_type(schema, &label.column).is_some() => Ok(()),
            None => plan_err!("{shown}: missing the label column '{}'", label.column),
        }
    }

    /// The columns of a query that the model reads, each once.
    pub fn reads(&self) -> Vec<&str> {
        let mut reads: Vec<&str> = match &self.transform {
            Some(transform) => transform.features.inputs.iter().map(|input| input.column.as_str()).collect(),
            None => self.features.iter().map(|feature| feature.root()).collect(),
        };
        let mut seen = HashSet::new();
        reads.retain(|column| seen.insert(*column));
        reads
    }

    /// The columns of a query that the label is read from.
    pub(crate) fn reads_label(&self) -> Vec<&str> {
        match (self.transform.as_ref().and_then(|transform| transform.label.as_ref()), &self.label) {
            (Some(made), _) => made.inputs.iter().map(|input| input.column.as_str()).collect(),
            (None, label) => label.iter().map(|label| label.column.as_str()).collect(),
        }
    }

    /// The columns that a prediction adds.
    ///
    /// # Errors
    /// `Plan` when the label's type cannot be read.
    pub fn predicted_fields(&self) -> Result<Vec<Field>> {
        let label = self.label()?;
        if label.classes.is_none() {
            return Ok(vec![Field::new(self.predicted(), DataType::Float64, true)]);
        }
        let label = label.data_type()?;
        let list = DataType::List(Field::new_list_field(probability(&label), true).into());
        Ok(vec![Field::new(self.predicted(), label, true), Field::new(self.probabilities(), list, true)])
    }
}

/// The type of an element of the column of class probabilities.
pub(crate) fn probability(label: &DataType) -> DataType {
    DataType::Struct(Fields::from(vec![
        Field::new("label", label.clone(), true),
        Field::new("prob", DataType::Float64, true),
    ]))
}

impl Label {
    /// Its Arrow type.
    ///
    /// # Errors
    /// `Plan` when it cannot be read.
    pub fn data_type(&self) -> Result<DataType> {
        read_type(&self.column, &self.data_type)
    }

    /// The classes in the label's type.
    ///
    /// # Errors
    /// `Plan` when one is no value of it.
    pub fn class_values(&self) -> Result<Vec<ScalarValue>> {
        let data_type = self.data_type()?;
        let classes = self.classes.iter().flatten();
        classes.map(|c| ScalarValue::try_from_string(c.clone(), &data_type)).collect()
    }
}

/// An Arrow type as [`DataType`] prints it.
pub(crate) fn read_type(column: &str, text: &str) -> Result<DataType> {
    match text.parse() {
        Ok(data_type) => Ok(data_type),
        Err(e) => plan_err!("the model's column '{column}' has type '{text}', which cannot be read: {e}"),
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let features: Vec<&str> = self.features.iter().map(|c| c.column.as_str()).collect();
        f.write_str(&self.model_type)?;
        if let Some(label) = &self.label {
            write!(f, " of {}", label.column)?;
        }
        write!(f, " from {}", features.join(", "))
    }
}
