//! What planning needs to know of a model: kept in the commit of its version, so that no weights are read for it.

use std::fmt;

use arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::{Result, ScalarValue, plan_err};
use firesteel_train::{Encoding, Model, ModelInfo, Task};
use serde::{Deserialize, Serialize};

use crate::encode::{Feature, FeatureKind};

/// A model's task, its label and the columns it reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// As the user gave it, `dnn_classifier` for example.
    pub model_type: String,
    /// What it predicts.
    pub label: Label,
    /// What it reads, in the order of the training query.
    pub features: Vec<Feature>,
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
            Feature { column: encoding.column().into(), data_type: data_type.to_string(), kind }
        };
        let classes = (task == Task::Classification).then(|| (0..outputs).map(|c| c.to_string()).collect());
        About {
            model_type: if classes.is_some() { "dnn_classifier" } else { "dnn_regressor" }.into(),
            label: Label {
                column: model.label().into(),
                data_type: if classes.is_some() { DataType::Int64 } else { DataType::Float64 }.to_string(),
                classes,
            },
            features: model.preprocessing().columns.iter().map(feature).collect(),
        }
    }

    /// The column of predictions.
    pub fn predicted(&self) -> String {
        format!("predicted_{}", self.label.column)
    }

    /// The column of class probabilities.
    pub fn probabilities(&self) -> String {
        format!("predicted_{}_probs", self.label.column)
    }

    /// The columns that a prediction adds.
    ///
    /// # Errors
    /// `Plan` when the label's type cannot be read.
    pub fn predicted_fields(&self) -> Result<Vec<Field>> {
        let Some(_) = &self.label.classes else {
            return Ok(vec![Field::new(self.predicted(), DataType::Float64, true)]);
        };
        let label = self.label.data_type()?;
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
        write!(f, "{} of {} from {}", self.model_type, self.label.column, features.join(", "))
    }
}
