//! Every operation on numbers small enough to check by hand.

use firesteel_engine::{Loss, Mode, PlanConfig, Precision, Replica, Values};

use crate::networks::graph;

/// The output of one layer on some rows, its parameters being given.
fn output(shape: &str, rows: usize, x: &[f32], op: &str, parameters: &[&[f32]]) -> Vec<f32> {
    let input = format!(r#"{{"name":"x","kind":{{"dense":{{"shape":{shape}}}}}}}"#);
    let graph = graph(&input, &format!(r#"{{"name":"a","op":{op}}},{{"name":"b","op":"flatten"}}"#));
    let config = PlanConfig {
        rows,
        threads: 1,
        mode: Mode::Auto,
        loss: Loss::MeanSquaredError,
        precision: Precision::F32,
        seed: 0,
    };
    let mut replica = Replica::new(graph.clone(), config).unwrap();
    for (parameter, values) in graph.parameters().iter().zip(parameters) {
        replica.weights_mut()[parameter.range.clone()].copy_from_slice(values);
    }
    let mut output = vec![f32::NAN; rows * graph.output_len()];
    replica.forward(rows, &[Values::Dense(x)], &mut output).unwrap();
    output
}

#[test]
fn linear() {
    let weight: &[f32] = &[1.0, 2.0, 3.0, 0.0, -1.0, 1.0];
    let parameters = [weight, &[10.0, 20.0]];
    let found = output("[3]", 2, &[1.0, 1.0, 1.0, 2.0, 0.0, 1.0], r#"{"linear":{"outputs":2}}"#, &parameters);
    assert_eq!(found, [16.0, 20.0, 15.0, 21.0]);
}

#[test]
fn convolution_of_two_groups() {
    let x = [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0];
    let op = r#"{"conv2d":{"outputs":2,"kernel":[1,2],"groups":2}}"#;
    let found = output("[2,2,2]", 1, &x, op, &[&[1.0, 10.0, 1.0, -1.0], &[0.5, 0.0]]);
    assert_eq!(found, [21.5, 43.5, -10.0, -10.0]);
}

#[test]
fn convolution_with_stride_and_padding() {
    let x = [1.0, 2.0, 3.0, 4.0];
    let op = r#"{"conv2d":{"outputs":1,"kernel":[3,3],"stride":[2,2],"padding":[1,1],"bias":false}}"#;
    assert_eq!(output("[1,2,2]", 1, &x, op, &[&[1.0; 9]]), [10.0]);
    let op = r#"{"conv2d":{"outputs":1,"kernel":[1,1],"stride":[1,2],"padding":[1,1],"bias":false}}"#;
    let expected = [0.0, 0.0, 0.0, 2.0, 0.0, 4.0, 0.0, 0.0];
    assert_eq!(output("[1,2,2]", 1, &x, op, &[&[1.0]]), expected);
}

#[test]
fn pools() {
    let x = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, -7.0, 8.0, 9.0];
    assert_eq!(output("[1,3,3]", 1, &x, r#"{"max_pool2d":{"kernel":[2,2]}}"#, &[]), [5.0]);
    let op = r#"{"max_pool2d":{"kernel":[3,3],"stride":[2,2],"padding":[1,1]}}"#;
    assert_eq!(output("[1,3,3]", 1, &x, op, &[]), [5.0, 5.0, 8.0, 9.0]);
    let op = r#"{"avg_pool2d":{"kernel":[2,2],"stride":[2,2],"padding":[1,1]}}"#;
    assert_eq!(output("[1,3,3]", 1, &x, op, &[]), [0.25, 0.25, -2.75, 4.0]);
}

#[test]
fn elementwise() {
    let x = [-1.0, 0.0, 2.0];
    let close = |op: &str, expected: [f32; 3]| {
        let found = output("[3]", 1, &x, op, &[]);
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{op}: {found:?}");
    };
    close(r#""relu""#, [0.0, 0.0, 2.0]);
    close(r#""tanh""#, [-0.761_594_2, 0.0, 0.964_027_6]);
    close(r#""sigmoid""#, [0.268_941_4, 0.5, 0.880_797_1]);
    close(r#""gelu""#, [-0.158_655_3, 0.0, 1.954_499_7]);
}

#[test]
fn layer_norm() {
    let found = output(
        "[4]",
        1,
        &[1.0, 3.0, 5.0, 7.0],
        r#"{"layer_norm":{"epsilon":4.0}}"#,
        &[&[1.0, 1.0, 1.0, 3.0], &[0.0, 0.0, 0.0, 1.0]],
    );
    assert_eq!(found, [-1.0, -1.0 / 3.0, 1.0 / 3.0, 4.0]);
}

#[test]
fn concat_and_add() {
    let inputs = r#"{"name":"x","kind":{"dense":{"shape":[2]}}},{"name":"y","kind":{"dense":{"shape":[2]}}}"#;
    for (op, width, expected) in [
        ("concat", 6, vec![1.0, 2.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 7.0, 8.0, 3.0, 4.0]),
        ("add", 2, vec![7.0, 10.0, 13.0, 16.0]),
    ] {
        let graph = graph(inputs, &format!(r#"{{"name":"a","inputs":["x","y","x"],"op":"{op}"}}"#));
        let config = PlanConfig {
            rows: 2,
            threads: 1,
            mode: Mode::Auto,
            loss: Loss::MeanSquaredError,
            precision: Precision::F32,
            seed: 0,
        };
        let mut replica = Replica::new(graph, config).unwrap();
        let mut output = vec![0.0; 2 * width];
        let inputs = [Values::Dense(&[1.0, 2.0, 3.0, 4.0]), Values::Dense(&[5.0, 6.0, 7.0, 8.0])];
        replica.forward(2, &inputs, &mut output).unwrap();
        assert_eq!(output, expected);
    }
}

#[test]
fn embedding() {
    let input = r#"{"name":"i","kind":{"index":{"cardinality":3}}}"#;
    let graph = graph(input, r#"{"name":"a","op":{"embedding":{"dims":2}}}"#);
    let config = PlanConfig {
        rows: 4,
        threads: 2,
        mode: Mode::Auto,
        loss: Loss::MeanSquaredError,
        precision: Precision::F32,
        seed: 0,
    };
    let mut replica = Replica::new(graph.clone(), config).unwrap();
    let start = graph.tables()[0].range.start;
    replica.weights_mut()[start..start + 6].copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mut output = [0.0; 8];
    replica.forward(4, &[Values::Index(&[2, 0, 2, 1])], &mut output).unwrap();
    assert_eq!(output, [5.0, 6.0, 1.0, 2.0, 5.0, 6.0, 3.0, 4.0]);
}
