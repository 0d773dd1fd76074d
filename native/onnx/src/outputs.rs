//! Outputs: what a caller reads, from what the network gives.

use firesteel_model::InputKind;
use firesteel_train::{Model, Task};

use crate::build::{Builder, Operator, cast};
use crate::layers::flatten;
use crate::proto::Element;

const PROBABILITIES: &str = "probabilities";
const PREDICTION: &str = "prediction";
const RECONSTRUCTION: &str = "reconstruction";
const LOSS: &str = "reconstruction_loss";

/// Keeps the names of a task's outputs from being given to something else.
pub(crate) fn claim(builder: &mut Builder, task: Task) {
    let names = match task {
        Task::Classification => [PREDICTION, PROBABILITIES].as_slice(),
        Task::Regression => &[PREDICTION],
        Task::Reconstruction => &[RECONSTRUCTION, LOSS],
    };
    for name in names {
        builder.claim(name);
    }
}

/// Adds the outputs of a model whose network reads `inputs` and gives `values`, `(N, outputs)`.
pub(crate) fn add(builder: &mut Builder, model: &Model, inputs: &[String], values: &str) {
    match model.info().task {
        Task::Classification => classes(builder, model, values),
        Task::Regression => number(builder, model, values),
        Task::Reconstruction => features(builder, model, inputs, values),
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

/// The features as they come back, and how far they are from `inputs`, the encoded columns.
fn features(builder: &mut Builder, model: &Model, inputs: &[String], values: &str) {
    let width = Some(model.info().outputs);
    builder.output(Operator::new("Identity"), &[values], RECONSTRUCTION, Element::Float, width);
    let mut flat = Vec::with_capacity(inputs.len());
    for (input, value) in model.graph().spec().inputs.iter().zip(inputs) {
        flat.push(match &input.kind {
            InputKind::Dense { shape } if shape.len() > 1 => {
                builder.node(flatten(), &[value], &format!("{}.flat", input.name))
            }
            _ => value.clone(),
        });
    }
    let flat: Vec<&str> = flat.iter().map(String::as_str).collect();
    let given = builder.node(Operator::new("Concat").int("axis", 1), &flat, "features");
    let apart = builder.node(Operator::new("Sub"), &[RECONSTRUCTION, &given], "features.apart");
    let squares = builder.node(Operator::new("Mul"), &[&apart, &apart], "features.squares");
    let mean = Operator::new("ReduceMean").ints("axes", [1]).int("keepdims", 0);
    builder.output(mean, &[&squares], LOSS, Element::Float, None);
}
