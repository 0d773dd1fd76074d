//! Files as they are read back. That runtimes compute the same is tested in Python, against onnxruntime.

use std::collections::{HashMap, HashSet};

use firesteel_error::Kind;
use firesteel_model::{Graph, Network};
use firesteel_train::{Model, Preprocessing};
use prost::Message;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{MOST_BYTES, check_size, export, export_with};
use crate::proto::{File, Node};

/// A model of a network with these columns; weights count up from 0.
fn model(task: &str, network: Value, columns: &Value, invalid: &str, outputs: usize) -> Model {
    let preprocessing = json!({"handle_invalid": invalid, "columns": columns});
    let inputs = serde_json::from_value::<Preprocessing>(preprocessing.clone()).unwrap().inputs();
    let spec = Network::from_json(&network.to_string()).unwrap().build(inputs, outputs).unwrap();
    let graph = Graph::new(&spec).unwrap();
    let parameters = graph.parameters().iter().map(|p| (&p.name, &p.shape));
    let named = parameters.chain(graph.buffers().iter().map(|b| (&b.name, &b.shape)));
    let values: Vec<u8> = (0..1000).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensors = named.map(|(name, shape)| {
        let bytes = &values[..4 * shape.iter().product::<usize>()];
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let weights = safetensors::serialize(tensors.collect::<Vec<_>>(), None).unwrap();
    let label =
        json!({"column": if task == "reconstruction" { "" } else { "y" }, "mean": 3.0, "deviation": 2.0});
    let classes = if task == "classification" { outputs.max(2) } else { 0 };
    let about = json!({"format": 1, "firesteel": "0", "task": task, "classes": classes, "label": label,
        "config": {}, "files": []});
    let files = [
        ("model.json", about.to_string().into_bytes()),
        ("spec.json", spec.to_json().into_bytes()),
        ("preprocessing.json", preprocessing.to_string().into_bytes()),
        ("history.json", b"[]".to_vec()),
        ("weights.safetensors", weights),
    ];
    Model::from_files(&files).unwrap()
}

fn number(name: &str) -> Value {
    json!({"number": {"column": name, "scaling": {"mean": [1.0], "deviation": [2.0], "standardize": true}}})
}

fn category(name: &str, values: &[&str]) -> Value {
    json!({"category": {"column": name, "values": values}})
}

fn tabular() -> Value {
    json!({"tabular": {"hidden": [2]}})
}

fn read(model: &Model) -> File {
    File::decode(export(model).unwrap().as_slice()).unwrap()
}

/// Every value is made once and before it is read.
fn check_order(file: &File) {
    let graph = file.graph.as_ref().unwrap();
    let given = graph.input.iter().map(|v| &v.name).chain(graph.initializer.iter().map(|t| &t.name));
    let mut known = HashSet::new();
    assert!(given.into_iter().all(|name| known.insert(name)));
    for node in &graph.node {
        assert!(node.input.iter().all(|name| known.contains(name)), "{node:?}");
        assert!(known.insert(&node.output[0]), "{node:?}");
    }
    assert!(graph.output.iter().all(|v| known.contains(&v.name)));
}

fn operators(file: &File) -> Vec<&str> {
    file.graph.as_ref().unwrap().node.iter().map(|n| n.op_type.as_str()).collect()
}

fn metadata(file: &File) -> HashMap<&str, &str> {
    file.metadata_props.iter().map(|p| (p.key(), p.value())).collect()
}

#[test]
fn columns_are_inputs_in_their_order() {
    let columns = json!([category("c", &["a", "b"]), number("n"), number("m")]);
    let file = read(&model("classification", tabular(), &columns, "error", 3));
    check_order(&file);
    let graph = file.graph.as_ref().unwrap();
    let names = |values: &[crate::proto::Value]| values.iter().map(|v| v.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&graph.input), ["c", "n", "m"]);
    assert_eq!(names(&graph.output), ["probabilities", "prediction"]);
    let encoder = graph.node.iter().find(|n| n.op_type == "LabelEncoder").unwrap();
    assert_eq!(encoder.domain, "ai.onnx.ml");
    let [keys, values, default] = encoder.attribute.as_slice() else { panic!("{encoder:?}") };
    assert_eq!(keys.strings, [b"".as_slice(), b"a", b"b"]);
    assert_eq!((values.ints.as_slice(), default.i), ([0, 2, 3].as_slice(), Some(1)));
    assert_eq!(file.opset_import.len(), 2);
}

#[test]
fn without_strings_it_asks_for_onnx_alone() {
    let file = read(&model("regression", tabular(), &json!([number("n")]), "error", 1));
    check_order(&file);
    assert_eq!((file.opset_import.len(), file.metadata_props.len()), (1, 0));
    let names: Vec<&str> = operators(&file);
    assert_eq!(&names[..5], ["Concat", "Cast", "Sub", "Div", "Cast"]);
    assert_eq!(&names[names.len() - 5..], ["Squeeze", "Cast", "Mul", "Add", "Cast"]);
}

#[test]
fn the_text_for_null_is_one_that_no_column_has() {
    let null = |columns: Value| {
        let file = read(&model("classification", tabular(), &columns, "error", 2));
        metadata(&file)["firesteel.null"].to_owned()
    };
    assert_eq!(null(json!([category("c", &["a"])])), "");
    assert_eq!(null(json!([category("c", &["", "a"]), category("d", &[])])), "NULL");
    assert_eq!(null(json!([category("c", &["", "a"]), category("d", &["NULL"])])), "NULL_");
}

#[test]
fn missing_numbers_are_filled_where_the_model_keeps_them() {
    let of = |invalid| operators_of(&model("regression", tabular(), &json!([number("n")]), invalid, 1));
    assert!(of("keep").contains(&"Where".to_owned()));
    assert!(!of("error").contains(&"Where".to_owned()));
}

fn operators_of(model: &Model) -> Vec<String> {
    operators(&read(model)).into_iter().map(str::to_owned).collect()
}

#[test]
fn columns_may_have_the_names_of_layers() {
    let columns =
        json!([number("head"), category("hidden1.weight", &["a"]), number("label.mean"), number("N")]);
    let file = read(&model("regression", tabular(), &columns, "keep", 1));
    check_order(&file);
    assert_eq!(file.graph.unwrap().input.len(), 4);
}

#[test]
fn dropout_leaves_no_trace_and_attributes_are_those_of_the_layer() {
    let layers = json!([
        {"conv2d": {"outputs": 2, "kernel": [3, 1], "stride": [1, 2], "padding": [1, 0], "groups": 2}},
        {"dropout": {"rate": 0.5}}, {"avg_pool2d": {"kernel": [2, 1]}}, "flatten",
    ]);
    let scaling = json!({"mean": [0.0], "deviation": [1.0], "standardize": false});
    let columns = json!([{"vector": {"column": "x", "shape": [2, 4, 3], "scaling": scaling}}]);
    let network = json!({"sequential": {"layers": layers}});
    let file = read(&model("classification", network, &columns, "error", 2));
    check_order(&file);
    let expected = ["Reshape", "Conv", "AveragePool", "Flatten", "Gemm", "Softmax", "ArgMax"];
    assert_eq!(operators(&file), expected);
    let graph = file.graph.unwrap();
    let ints = |node: &Node, name: &str| {
        node.attribute.iter().find(|a| a.name == name).map(|a| a.ints.clone()).unwrap()
    };
    let (conv, pool) = (&graph.node[1], &graph.node[2]);
    assert_eq!((ints(conv, "pads"), ints(conv, "strides")), (vec![1, 0, 1, 0], vec![1, 2]));
    assert_eq!((ints(pool, "kernel_shape"), ints(pool, "strides")), (vec![2, 1], vec![2, 1]));
    assert_eq!(pool.input, conv.output);
}

#[test]
fn wide_and_deep_is_a_sum_of_parts_that_read_the_same_inputs() {
    let columns = json!([number("n"), category("c", &["a"])]);
    let file =
        read(&model("classification", json!({"wide_and_deep": {"hidden": [2]}}), &columns, "error", 3));
    check_order(&file);
    let graph = file.graph.as_ref().unwrap();
    let sum = graph.node.iter().find(|n| n.op_type == "Sum").unwrap();
    assert_eq!(sum.input, ["head", "numbers_wide", "c_wide"]);
    let node = |name: &str| graph.node.iter().find(|n| n.name == name).unwrap();
    assert_eq!(node("numbers_wide").input, ["numbers.standard", "numbers_wide.weight"]);
    assert_eq!(node("c_wide").input[1], node("c_embedding").input[1]);
    let table = graph.initializer.iter().find(|t| t.name == node("c_wide").input[0]).unwrap();
    assert_eq!(table.dims, [3, 3]);
}

#[test]
fn a_reconstruction_gives_its_features_and_their_loss() {
    let scaling = json!({"mean": [0.0], "deviation": [1.0], "standardize": false});
    let columns = json!([{"one_hot": {"column": "c", "values": ["a", "b"]}},
        {"vector": {"column": "x", "shape": [1, 2, 2], "scaling": scaling}}, number("n")]);
    let network = json!({"autoencoder": {"hidden": [2]}});
    let model = model("reconstruction", network, &columns, "error", 9);
    let file = read(&model);
    check_order(&file);
    let graph = file.graph.as_ref().unwrap();
    let inputs: Vec<_> = graph.input.iter().map(|v| (v.name.as_str(), width(v))).collect();
    assert_eq!(inputs, [("c", Some(1)), ("x", Some(4)), ("n", Some(1))]);
    let outputs: Vec<_> = graph.output.iter().map(|v| (v.name.as_str(), width(v))).collect();
    assert_eq!(outputs, [("reconstruction", Some(9)), ("reconstruction_loss", None)]);
    let one_hot = graph.node.iter().find(|n| n.op_type == "OneHot").unwrap();
    let constant = |name: &str| graph.initializer.iter().find(|t| t.name == name).unwrap();
    let [_, depth, values] = one_hot.input.as_slice() else { panic!("{one_hot:?}") };
    assert_eq!(constant(depth).raw_data, 4i64.to_le_bytes());
    assert_eq!(constant(values).raw_data, [0, 0, 0, 0, 0, 0, 0x80, 0x3f]);
    let tail: Vec<&str> = operators(&file).into_iter().rev().take(6).collect();
    assert_eq!(tail, ["ReduceMean", "Mul", "Sub", "Concat", "Flatten", "Identity"]);
    let joined = graph.node.iter().rfind(|n| n.op_type == "Concat").unwrap();
    assert_eq!(joined.input, ["numbers.standard", "c.one_hot", "x.flat"]);
    assert_eq!(metadata(&file)["firesteel.null"], "");
}

/// The width that a value is declared with.
fn width(value: &crate::proto::Value) -> Option<i64> {
    let shape = value.r#type.as_ref()?.tensor.as_ref()?.shape.as_ref()?;
    shape.dim.get(1)?.value
}

#[test]
fn what_cannot_be_exported_is_named() {
    let refused = |task, columns: Value, invalid| {
        let e = export(&model(task, tabular(), &columns, invalid, 2 - usize::from(task == "regression")));
        let e = e.unwrap_err();
        assert_eq!(e.kind(), Kind::InvalidArgument);
        e.to_string()
    };
    let taken = "has the name of an output or of another column of the ONNX file";
    let found = refused("classification", json!([number("prediction")]), "error");
    assert_eq!(found, format!("feature column 'prediction' {taken}"));
    let found = refused("classification", json!([category("probabilities", &[])]), "error");
    assert_eq!(found, format!("feature column 'probabilities' {taken}"));
    assert!(refused("regression", json!([number("a"), number("a")]), "error").ends_with(taken));
    assert!(refused("regression", json!([number("")]), "error").contains("an empty name"));
    let scaling = json!({"mean": [1e39], "deviation": [1.0], "standardize": false});
    let large = json!([{"number": {"column": "n", "scaling": scaling}}]);
    assert!(refused("regression", large.clone(), "keep").starts_with("column 'n' has the mean 1e39"));
    assert!(export(&model("regression", tabular(), &large, "error", 1)).is_ok());
    assert!(
        export(&model("regression", tabular(), &json!([number("probabilities")]), "error", 1)).is_ok(),
        "a regression has no probabilities"
    );
}

#[test]
fn a_file_is_shorter_than_2_gib() {
    assert!(check_size(MOST_BYTES).is_ok());
    let e = check_size(1 << 31).unwrap_err().to_string();
    assert_eq!(e, "the model has 2147483648 bytes as an ONNX file, which holds at most 2147483647");
}

#[test]
fn metadata_is_the_callers_with_every_key_once() {
    let model = model("classification", tabular(), &json!([category("c", &[])]), "error", 2);
    let bytes = export_with(&model, &[("classes", "no,yes"), ("by", "me")]).unwrap();
    let file = File::decode(bytes.as_slice()).unwrap();
    assert_eq!(metadata(&file), HashMap::from([("classes", "no,yes"), ("by", "me"), ("firesteel.null", "")]));
    for twice in [[("a", "1"), ("a", "2")], [("a", "1"), ("firesteel.null", "x")]] {
        let e = export_with(&model, &twice).unwrap_err().to_string();
        assert!(e.contains("is given twice"), "{e}");
    }
}
