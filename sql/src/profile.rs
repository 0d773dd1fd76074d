//! What the rows of a training say of each feature: what `ML.FEATURE_INFO` shows.

use arrow::array::RecordBatch;
use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::Result;
use firesteel_train::{Encoding, Preprocessing};
use serde::{Deserialize, Serialize};

use crate::encode::{Feature, FeatureKind};

/// Values kept of a column to find its median; beyond, evenly spaced ones are.
const SAMPLE: usize = 8192;

/// What is counted of a feature while its rows come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Profile {
    nulls: u64,
    count: u64,
    #[serde(deserialize_with = "or_infinite")]
    mean: f64,
    /// Of squared distances from the mean (Welford 1962; Chan et al. 1979 for parts).
    #[serde(deserialize_with = "or_infinite")]
    squares: f64,
    /// None where there is no value.
    range: Option<(f64, f64)>,
    sample: Vec<f64>,
    /// Every so many values one is kept.
    stride: usize,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile { nulls: 0, count: 0, mean: 0.0, squares: 0.0, range: None, sample: Vec::new(), stride: 1 }
    }
}

impl Profile {
    /// Takes the values of a batch in.
    pub(crate) fn push(&mut self, feature: &Feature, batch: &RecordBatch) -> Result<()> {
        let array = feature.find(batch)?;
        self.nulls += array.logical_null_count() as u64;
        if feature.kind != FeatureKind::Number {
            return Ok(());
        }
        let numbers = cast(&array, &DataType::Float64)?;
        for value in numbers.as_primitive::<Float64Type>().iter().flatten().filter(|v| v.is_finite()) {
            self.add(value);
        }
        Ok(())
    }

    fn add(&mut self, value: f64) {
        if self.count.is_multiple_of(self.stride as u64) {
            self.sample.push(value);
            if self.sample.len() == SAMPLE {
                thin(&mut self.sample);
                self.stride *= 2;
            }
        }
        self.count += 1;
        let distance = value - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (value - self.mean);
        self.widen((value, value));
    }

    fn widen(&mut self, (least, most): (f64, f64)) {
        let (min, max) = self.range.unwrap_or((least, most));
        self.range = Some((min.min(least), max.max(most)));
    }

    /// Takes what another part counted in.
    pub(crate) fn merge(&mut self, mut other: Profile) {
        self.nulls += other.nulls;
        if other.count == 0 {
            return;
        }
        let (mine, theirs) = (self.count as f64, other.count as f64);
        let distance = other.mean - self.mean;
        self.squares += other.squares + distance * distance * mine * theirs / (mine + theirs);
        self.mean += distance * theirs / (mine + theirs);
        self.count += other.count;
        if let Some(range) = other.range {
            self.widen(range);
        }
        while self.stride < other.stride {
            thin(&mut self.sample);
            self.stride *= 2;
        }
        while other.stride < self.stride {
            thin(&mut other.sample);
            other.stride *= 2;
        }
        self.sample.extend(other.sample);
    }

    fn median(&self) -> Option<f64> {
        let mut sample = self.sample.clone();
        sample.sort_by(f64::total_cmp);
        let middle = sample.len() / 2;
        match sample.len() {
            0 => None,
            n if n % 2 == 1 => Some(sample[middle]),
            _ => Some((sample[middle - 1] + sample[middle]) / 2.0),
        }
    }

    /// As `ML.FEATURE_INFO` shows it.
    pub(crate) fn info(&self, feature: &Feature, preprocessing: &Preprocessing) -> FeatureInfo {
        let numeric = self.count > 0;
        let mut info = FeatureInfo {
            input: feature.column.clone(),
            min: self.range.map(|(min, _)| min),
            max: self.range.map(|(_, max)| max),
            mean: numeric.then_some(self.mean),
            median: self.median(),
            stddev: (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).sqrt()),
            category_count: None,
            null_count: self.nulls as i64,
            dimension: None,
            encoding: feature.kind.text().to_owned(),
        };
        match &feature.kind {
            FeatureKind::Words { values } => info.dimension = Some(values.len() as i64),
            FeatureKind::Time { .. } => info.dimension = Some(feature.kind.columns("").len() as i64),
            _ => {}
        }
        match preprocessing.columns.iter().find(|c| c.column() == feature.column) {
            Some(Encoding::Category { values, .. } | Encoding::OneHot { values, .. }) => {
                info.category_count = Some((values.len() + usize::from(self.nulls > 0)) as i64);
            }
            Some(vector @ Encoding::Vector { .. }) => info.dimension = Some(vector.width() as i64),
            _ => {}
        }
        info
    }
}

/// JSON has neither infinity nor NaN, which sums of large values may reach; both come back as infinity.
fn or_infinite<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Option::deserialize(from).map(|number| number.unwrap_or(f64::INFINITY))
}

/// Keeps every second.
fn thin(sample: &mut Vec<f64>) {
    let mut odd = false;
    sample.retain(|_| {
        odd = !odd;
        odd
    });
}

/// A row of `ML.FEATURE_INFO`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FeatureInfo {
    pub(crate) input: String,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) mean: Option<f64>,
    pub(crate) median: Option<f64>,
    pub(crate) stddev: Option<f64>,
    pub(crate) category_count: Option<i64>,
    pub(crate) null_count: i64,
    pub(crate) dimension: Option<i64>,
    pub(crate) encoding: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_give_what_the_whole_gives() {
        let values: Vec<f64> = (0..50_000u64).map(|i| (i * 7919 % 10_007) as f64).collect();
        let (mut whole, mut left, mut right) = (Profile::default(), Profile::default(), Profile::default());
        values.iter().for_each(|v| whole.add(*v));
        values[..13_000].iter().for_each(|v| left.add(*v));
        values[13_000..].iter().for_each(|v| right.add(*v));
        left.merge(right);
        assert_eq!((left.count, left.range), (whole.count, whole.range));
        assert!((left.mean - whole.mean).abs() < 1e-6 && (left.squares / whole.squares - 1.0).abs() < 1e-9);
        for profile in [whole, left] {
            assert!((profile.median().unwrap() - 5003.0).abs() < 200.0, "{:?}", profile.median());
        }
    }
}
