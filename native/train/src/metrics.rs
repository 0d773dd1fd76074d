//! Metrics of predictions, each with a weight a row.

/// The area under the ROC curve: how often a row of class 1 scores above one of class 0, ties half.
///
/// `rows` holds (score, whether class 1, weight) and is sorted. 0.5 when a class is missing.
pub fn auc(rows: &mut [(f32, bool, f32)]) -> f64 {
    rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut pairs, mut positives) = (0.0f64, 0.0f64, 0.0f64);
    for ties in rows.chunk_by(|a, b| a.0 == b.0) {
        let weight = |class: bool| ties.iter().filter(|r| r.1 == class).map(|r| f64::from(r.2)).sum::<f64>();
        let (negative, positive) = (weight(false), weight(true));
        pairs += positive * (below + negative / 2.0);
        below += negative;
        positives += positive;
    }
    if below > 0.0 && positives > 0.0 { pairs / (below * positives) } else { 0.5 }
}

/// A weighted mean, summed in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    /// Takes a value in.
    pub fn add(&mut self, value: f64, weight: f64) {
        self.sum += value * weight;
        self.weight += weight;
    }

    /// Takes the values of another in.
    pub fn merge(&mut self, other: Mean) {
        self.sum += other.sum;
        self.weight += other.weight;
    }

    /// The sum of weighted values, and of weights.
    pub fn parts(self) -> (f64, f64) {
        (self.sum, self.weight)
    }

    /// From the sum of weighted values, and of weights.
    pub fn from_parts(sum: f64, weight: f64) -> Mean {
        Mean { sum, weight }
    }

    /// NaN without weight.
    pub fn value(self) -> f64 {
        self.sum / self.weight
    }
}

/// The place of the largest value; the first of equals.
pub fn largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// −log softmax(logits)\[class\].
pub fn softmax_loss(logits: &[f32], class: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
    sum.ln() - f64::from(logits[class] - most)
}

/// −log σ(±logit).
pub fn logistic_loss(logit: f32, class: bool) -> f64 {
    let x = if class { -f64::from(logit) } else { f64::from(logit) };
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Half the square within `delta`, a straight line beyond (Huber 1964).
pub fn huber_loss(difference: f64, delta: f64) -> f64 {
    let d = difference.abs();
    if d <= delta { 0.5 * d * d } else { delta * (d - 0.5 * delta) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: all pairs.
    fn auc_by_pairs(rows: &[(f32, bool, f32)]) -> f64 {
        let (mut right, mut all) = (0.0, 0.0);
        for p in rows.iter().filter(|r| r.1) {
            for n in rows.iter().filter(|r| !r.1) {
                let weight = f64::from(p.2 * n.2);
                all += weight;
                right += weight
                    * if p.0 > n.0 {
                        1.0
                    } else if p.0 == n.0 {
                        0.5
                    } else {
                        0.0
                    };
            }
        }
        right / all
    }

    #[test]
    fn auc_equals_its_definition_with_ties_and_weights() {
        let mut rows: Vec<(f32, bool, f32)> = (0..200u32)
            .map(|i| {
                let score = (i * 7919 % 37) as f32;
                (score, (i * 31 % 7 + i % 3) > 4, (i % 5) as f32)
            })
            .collect();
        let expected = auc_by_pairs(&rows);
        assert!((auc(&mut rows) - expected).abs() < 1e-12);
        assert_eq!(auc(&mut [(0.1, false, 1.0), (0.9, true, 1.0)]), 1.0);
        assert_eq!(auc(&mut [(0.9, true, 1.0)]), 0.5);
        assert_eq!(auc(&mut []), 0.5);
    }

    #[test]
    fn losses_by_hand() {
        assert!((softmax_loss(&[0.0, 0.0], 1) - 2f64.ln()).abs() < 1e-12);
        assert!((softmax_loss(&[1000.0, 0.0], 1) - 1000.0).abs() < 1e-9);
        assert!((logistic_loss(0.0, true) - 2f64.ln()).abs() < 1e-12);
        assert!((logistic_loss(-50.0, true) - 50.0).abs() < 1e-9);
        assert_eq!(huber_loss(0.5, 1.0), 0.125);
        assert_eq!(huber_loss(-3.0, 1.0), 2.5);
    }

    #[test]
    fn means_merge() {
        let mut a = Mean::default();
        a.add(1.0, 3.0);
        let mut b = Mean::default();
        b.add(5.0, 1.0);
        a.merge(b);
        assert_eq!(a.value(), 2.0);
        assert_eq!(largest(&[1.0, 3.0, 3.0]), 1);
    }
}
