//! Outputs: what a caller reads, from what the network gives.

use firesteel_train::{Model, Task};

use crate::build::{Builder, Operator, cast};
use crate::proto::Element;

const PROBABILITIES: &str = "probabilities";
const PREDICTION: &str = "prediction";

/// Keeps the names of a task's outputs from being given to something else.
pub(crate) fn claim(builder: &mut Builder, task: Task) {
    builder.claim(PREDICTION);
    if task == Task::Classification {
        builder.claim(PROBABILITIES);
    }
}

/// Adds the outputs of a model whose network gives `values`, `(N, outputs)`.
pub(crate) fn add(builder: &mut Builder, model: &Model, values: &str) {
    match model.info().task {
        Task::Classification => classes(builder, model, values),
        Task::Regression => number(builder, model, values),
    }
}

fn classes(builder: &mut Builder, model: &Model, logits: &str) {
    let classes = model.info().outputs;
    let (operator, logits) = match model.graph().output_len() {
        // One logit, of class 1. The sigmoid of its negative is class 0's probability with all its digits.
        1 => {
            let other = builder.node(Operator::new("Neg"), &[logits], "logit_0");
            let concat = Operator::new("Concat").int("axis", 1);
            (Operator::new("Sigmoid"), builder.node(concat, &[&other, logits], "logits"))
        }
        _ => (Operator::new("Softmax").int("axis", 1), logits.to_owned()),
    };
    builder.output(operator, &[&logits], PROBABILITIES, Element::Float, Some(classes));
    let largest = Operator::new("ArgMax").int("axis", 1).int("keepdims", 0);
    builder.output(largest, &[PROBABILITIES], PREDICTION, Element::Int64, None);
}

/// Back to the label's unit, in f64 as a [`firesteel_train::Predictor`] does it.
fn number(builder: &mut Builder, model: &Model, values: &str) {
    let (mean, deviation) = model.label_scale();
    let mean = builder.constant("label.mean", &[], &[mean]);
    let deviation = builder.constant("label.deviation", &[], &[deviation]);
    let axes = builder.constant("label.axes", &[1], &[1i64]);
    let single = builder.node(Operator::new("Squeeze"), &[values, &axes], "label.standard");
    let wide = builder.node(cast(Element::Double), &[&single], "label.wide");
    let scaled = builder.node(Operator::new("Mul"), &[&wide, &deviation], "label.scaled");
    let shifted = builder.node(Operator::new("Add"), &[&scaled, &mean], "label.shifted");
    builder.output(cast(Element::Float), &[&shifted], PREDICTION, Element::Float, None);
}
