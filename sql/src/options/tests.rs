//! Options through the parser, as users write them.

use datafusion::common::Result;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use firesteel_model::{Activation, Network, Op};
use serde_json::json;

use super::search::{Algorithm, Dimension, Values};
use super::*;
use crate::parse::{OptionValue, Statement, parse};

fn options(text: &str) -> Vec<ModelOption> {
    let sql = format!("CREATE MODEL m\nOPTIONS ({text}) AS SELECT 1");
    match parse(&sql, &GenericDialect {}, true).unwrap().remove(0) {
        Statement::CreateModel(create) => create.options,
        other => panic!("{other:?}"),
    }
}

fn read(text: &str) -> Result<ModelOptions> {
    ModelOptions::read(&options(text))
}

fn classifier(text: &str) -> ModelOptions {
    read(&format!("model_type='dnn_classifier', {text}")).unwrap()
}

#[test]
fn what_is_not_given_has_defaults() {
    let read = read("model_type = 'DNN_CLASSIFIER'").unwrap();
    assert_eq!(read.model_type, ModelType::DnnClassifier);
    assert_eq!(read.label(), Some("label"));
    assert_eq!((read.feature_cols, read.exclude_cols.len()), (None, 0));
    let mlp = Network::Mlp { hidden: vec![64], activation: Activation::Relu, dropout: 0.0 };
    assert_eq!(read.network, Some(mlp));
    assert_eq!(serde_json::Value::Object(read.params), json!({"epochs": 20, "handle_invalid": "keep"}));
    assert_eq!((read.split, read.stop), (Split::Auto, Some(EarlyStop { patience: 2 })));
    assert_eq!((read.seed, read.workers, read.cache), (None, None, Cache::MemoryThenDisk));
    assert_eq!((read.on_unseen, read.class_weights), (OnUnseen::Unknown, ClassWeights::Equal));
    assert_eq!((read.warm_start, read.checkpoint_every, read.search), (false, 0, None));
}

#[test]
fn bigquery_names_and_our_own() {
    let theirs = "learn_rate=0.01, MAX_ITERATIONS=5, l2_reg=0.1, lr_schedule=cosine, optimizer='ADAMW', \
                  checkpoint_every=3, batch_size=32, seed=7, beta1=0.8";
    let ours = "learning_rate=0.01, epochs=5.0, weight_decay=0.1, schedule='cosine', optimizer=adamw, \
                checkpoint_interval=3, batch_size=32, seed=7, beta1=0.8";
    let read = classifier(theirs);
    assert_eq!(read, classifier(ours));
    let expected = json!({
        "learning_rate": 0.01, "epochs": 5, "weight_decay": 0.1, "schedule": "cosine", "optimizer": "adamw",
        "checkpoint_interval": 3, "batch_size": 32, "seed": 7, "beta1": 0.8, "handle_invalid": "keep",
    });
    assert_eq!(serde_json::Value::Object(read.params), expected);
    assert_eq!((read.checkpoint_every, read.seed), (3, Some(7)));
}

#[test]
fn every_hyper_parameter_is_an_option() {
    for param in firesteel_train::params::TABLE {
        let value = match param.domain.default_value() {
            serde_json::Value::String(text) => format!("'{text}'"),
            value => value.to_string(),
        };
        classifier(&format!("{} = {value}", param.name));
    }
}

#[test]
fn networks() {
    let mlp =
        |hidden: &[usize], activation, dropout| Network::Mlp { hidden: hidden.into(), activation, dropout };
    let cases = [
        ("hidden_units=[16, 8], activation_fn='GELU', dropout=0.5", mlp(&[16, 8], Activation::Gelu, 0.5)),
        ("hidden_units=32", mlp(&[32], Activation::Relu, 0.0)),
        ("hidden_units=[]", mlp(&[], Activation::Relu, 0.0)),
        (
            "embedding_dims=4",
            Network::Tabular {
                hidden: vec![64],
                embedding_dims: 4,
                dropout: 0.0,
                activation: Activation::Relu,
            },
        ),
        (
            "layers=['dense(8)', 'batch_norm'], activation_fn=tanh",
            Network::Sequential {
                layers: vec![
                    Op::Linear { outputs: 8, bias: true },
                    Op::Tanh,
                    Op::BatchNorm { epsilon: 1e-5, momentum: 0.1 },
                ],
            },
        ),
    ];
    for (text, network) in cases {
        assert_eq!(classifier(text).network, Some(network), "{text}");
    }
    assert_eq!(read("model_type='linear_reg'").unwrap().network, Some(mlp(&[], Activation::Relu, 0.0)));
    let only = read("model_type='transform_only', description='d'").unwrap();
    assert_eq!((only.network, only.label_cols.len()), (None, 0));
}

#[test]
fn splits_and_stops() {
    let cases = [
        ("data_split_method='no_split'", Split::None),
        ("data_split_eval_fraction=0.1", Split::Random { eval: 0.1, test: 0.0 }),
        ("validation_fraction=0", Split::None),
        ("data_split_method='RANDOM'", Split::Random { eval: 0.2, test: 0.0 }),
        ("data_split_test_fraction=0.3", Split::Random { eval: 0.2, test: 0.3 }),
        ("data_split_col='held'", Split::Custom { column: "held".into() }),
        (
            "data_split_method='seq', data_split_col='day'",
            Split::Sequential { column: "day".into(), eval: 0.2, test: 0.0 },
        ),
    ];
    for (text, split) in cases {
        let read = classifier(text);
        assert_eq!(read.stop.is_some(), split != Split::None, "{text}");
        assert_eq!(read.split, split, "{text}");
    }
    assert_eq!(classifier("early_stop=FALSE").stop, None);
    assert_eq!(classifier("patience=0").stop, None);
    let slow = classifier("patience=5, min_rel_progress=0.01");
    assert_eq!(slow.stop, Some(EarlyStop { patience: 5 }));
    assert_eq!(slow.params["min_improvement"], json!(0.01));
}

#[test]
fn the_rest() {
    let read = classifier(
        "input_label_cols=['y'], exclude_cols=['id', 'Name'], workers=4, cache='none', on_null='skip', \
         on_unseen='error', warm_start=TRUE, sample_weight_col='w', description='it''s', labels=['a'], \
         class_weights=[STRUCT('a' AS label, 0.3 AS weight), STRUCT(TRUE AS label, 1 AS weight)], l1_reg=0.0, \
         device='CUDA:1', precision='Bf16', sync='sync', optimizer='momentum'",
    );
    assert_eq!(
        (read.label(), read.exclude_cols.as_slice()),
        (Some("y"), ["id".to_owned(), "Name".into()].as_slice())
    );
    assert_eq!((read.workers, read.cache, read.on_unseen), (Some(4), Cache::None, OnUnseen::Error));
    assert_eq!((&read.params["handle_invalid"], read.warm_start), (&json!("skip"), true));
    assert_eq!((&read.params["optimizer"], &read.params["momentum"]), (&json!("sgd"), &json!(0.9)));
    assert_eq!((&read.params["device"], &read.params["precision"]), (&json!("cuda:1"), &json!("bf16")));
    assert_eq!(read.sample_weight_col.as_deref(), Some("w"));
    assert_eq!(read.description.as_deref(), Some("it's"));
    assert_eq!(read.labels, ["a"]);
    assert_eq!(read.class_weights, ClassWeights::Given(vec![("a".into(), 0.3), ("true".into(), 1.0)]));
    assert_eq!(classifier("auto_class_weights=TRUE").class_weights, ClassWeights::Balanced);
    assert_eq!(classifier("workers='AUTO'").workers, None);
}

#[test]
fn a_search_and_its_trials() {
    let given = options(
        "model_type='dnn_classifier', num_trials=8, max_parallel_trials=2, hparam_tuning_objectives=['accuracy'],\n\
         learning_rate=HPARAM_RANGE(0.001, 0.1), batch_size=HPARAM_RANGE(16, 64), \
         hidden_units=HPARAM_CANDIDATES([STRUCT([8, 16]), STRUCT([4])])",
    );
    let read = ModelOptions::read(&given).unwrap();
    let search = read.search.unwrap();
    assert_eq!((search.algorithm, search.trials, search.parallel), (Algorithm::Random, Some(8), 2));
    assert_eq!(search.objective.as_deref(), Some("accuracy"));
    let range = |option: &str, least, most, integers| Dimension {
        option: option.into(),
        values: Values::Range { least, most, integers },
    };
    assert_eq!(
        search.space[..2],
        [range("learn_rate", 0.001, 0.1, false), range("batch_size", 16.0, 64.0, true)]
    );
    assert!(matches!(&search.space[2].values, Values::Candidates(c) if c.len() == 2));
    let number = |text: &str| OptionValue::Number(text.into());
    let units = OptionValue::Array(vec![number("8"), number("16")]);
    let trial = search.trial(&given, &[number("0.05"), number("32"), units]).unwrap();
    assert_eq!((&trial.params["learning_rate"], &trial.params["batch_size"]), (&json!(0.05), &json!(32)));
    assert!(matches!(&trial.network, Some(Network::Mlp { hidden, .. }) if *hidden == [8, 16]));
    assert_eq!(trial.search, None);
    assert!(search.trial(&given, &[]).is_err());
}

#[test]
fn mistakes_are_named() {
    let cases = [
        (
            "hiden_units=[4], model_type='dnn_classifier'",
            "unknown option 'hiden_units' at line 2 column 10; did you mean 'hidden_units'?",
        ),
        (
            "zzzzzzzzzzzzzzzzzzzzzzz=1",
            "unknown option 'zzzzzzzzzzzzzzzzzzzzzzz' at line 2 column 10; there are model_type, ",
        ),
        ("seed=1,\n    seed=2", "duplicate option 'seed' at line 3 column 5; it is also at line 2 column 10"),
        (
            "learn_rate=1, learning_rate=2",
            "duplicate option 'learning_rate' at line 2 column 24; 'learn_rate' at line 2 column 10 is the same",
        ),
        ("learn_rate='fast'", "learn_rate expects a positive number, got 'fast' at line 2 column 10"),
        ("learn_rate=-1", "learn_rate expects a positive number, got -1"),
        ("learn_rate=1e999", "learn_rate expects a positive number, got 1e999"),
        ("batch_size=0.5", "batch_size expects a whole number from 1 on, got 0.5"),
        ("dropout=1", "dropout expects a number at least 0 and below 1, got 1"),
        (
            "hidden_units=[4, 'a']",
            "hidden_units expects a list of whole numbers from 1 to 1048576, got [4, 'a']",
        ),
        ("hidden_units=[0]", "hidden_units expects a list of whole numbers from 1 to 1048576, got [0]"),
        ("early_stop=1", "early_stop expects true or false, got 1"),
        (
            "class_weights=[STRUCT(1 AS weight)]",
            "class_weights expects a list of STRUCT('a' AS label, 0.3 AS weight)",
        ),
        ("workers=0", "workers expects a whole number from 1 to 256, or auto, got 0"),
        (
            "description=NULL, model_type=5",
            "model_type expects one of dnn_classifier, dnn_regressor, logistic_reg",
        ),
        (
            "model_type='kmeans'",
            "model_type 'kmeans' is not supported yet at line 2 column 10; use one of dnn_",
        ),
        ("model_type='boosted_tree'", "model_type expects one of dnn_classifier, "),
        (
            "optimizer='ftrl'",
            "optimizer 'ftrl' is not supported yet at line 2 column 10; use one of adam, adamw, sgd, momentum",
        ),
        (
            "activation_fn='selu'",
            "activation_fn 'selu' is not supported yet at line 2 column 10; use one of relu, ",
        ),
        (
            "device='gpu'",
            "device expects auto, cpu, cuda or cuda:N, N a GPU's number, got 'gpu' at line 2 column 10",
        ),
        ("device=0", "device expects auto, cpu, cuda or cuda:N, N a GPU's number, got 0"),
        ("precision='fp16'", "precision expects one of f32, tf32, bf16, f16, got 'fp16'"),
        ("sync='never'", "sync expects one of auto, sync, average, got 'never'"),
        ("l1_reg=0.1", "l1_reg is not supported yet at line 2 column 10; use l2_reg"),
        ("hidden_units=[4]", "model_type is required: one of dnn_classifier, "),
        (
            "model_type='linear_reg', hidden_units=[4]",
            "hidden_units does not go with model_type 'linear_reg' at line 2 column 35",
        ),
        (
            "model_type='transform_only', learn_rate=1",
            "learn_rate does not go with model_type 'transform_only'",
        ),
        (
            "model_type='dnn_regressor', auto_class_weights=TRUE",
            "auto_class_weights does not go with model_type 'dnn_regressor'",
        ),
    ];
    let of_classifiers = [
        ("input_label_cols=['a', 'b']", "input_label_cols has 2 columns, expected one"),
        ("input_label_cols=[]", "input_label_cols has 0 columns, expected one"),
        ("feature_cols=['a'], exclude_cols=['b']", "exclude_cols does not go with feature_cols"),
        ("feature_cols=[]", "feature_cols is empty"),
        ("feature_cols=['label']", "column 'label' is in feature_cols and in input_label_cols"),
        (
            "layers=['dense(8)'], dropout=0.1",
            "dropout does not go with layers at line 2 column 60; write dropout(0.1) where it belongs",
        ),
        (
            "layers=['danse(8)']",
            "layers at line 2 column 39: there is no layer 'danse'; did you mean 'dense'?",
        ),
        ("layers=['lstm(8)']", "layer 'lstm(8)' is not supported yet in SQL"),
        ("nesterov=TRUE", "nesterov is true, which needs optimizer sgd with a momentum above 0"),
        ("on_null='skip', handle_invalid='keep'", "on_null and handle_invalid are two words for one thing"),
        ("data_split_method='custom'", "data_split_method 'custom' needs data_split_col"),
        (
            "data_split_method='auto_split', validation_fraction=0.1",
            "validation_fraction does not go with data_split_method 'auto_split'",
        ),
        ("data_split_method='seq'", "data_split_method 'seq' needs data_split_col"),
        ("data_split_eval_fraction=0.5, data_split_test_fraction=0.5", "1 of the rows are held out"),
        ("early_stop=FALSE, patience=3", "patience does not go with early_stop = FALSE"),
        ("data_split_method='no_split', patience=3", "patience needs rows that are held out"),
        (
            "class_weights=[STRUCT('a' AS label, 1 AS weight), STRUCT('a' AS label, 2 AS weight)]",
            "class_weights names 'a' twice",
        ),
        (
            "class_weights=[STRUCT('a' AS label, 1 AS weight)], auto_class_weights=TRUE",
            "class_weights does not go with auto_class_weights",
        ),
        ("num_trials=3", "num_trials needs an option with HPARAM_RANGE or HPARAM_CANDIDATES"),
        ("dropout=HPARAM_RANGE(0, 0.5)", "a search over dropout needs num_trials"),
        (
            "num_trials=3, dropout=HPARAM_RANGE(0.5, 0.1)",
            "dropout: HPARAM_RANGE(0.5, 0.1) is no range of numbers",
        ),
        (
            "num_trials=3, dropout=HPARAM_RANGE(0, 2)",
            "dropout expects a number at least 0 and below 1, got 2",
        ),
        (
            "num_trials=3, optimizer=HPARAM_CANDIDATES(['adam', 'ftrl'])",
            "optimizer 'ftrl' is not supported yet",
        ),
        ("num_trials=3, seed=HPARAM_RANGE(1, 2)", "seed cannot be searched"),
        ("num_trials=3, device=HPARAM_CANDIDATES(['cpu', 'cuda'])", "device cannot be searched"),
        (
            "device='cpu', precision='bf16'",
            "precision is bf16, which needs a GPU, and device is cpu; expected f32",
        ),
        (
            "hparam_tuning_algorithm='grid_search', dropout=HPARAM_RANGE(0, 0.5)",
            "grid_search needs HPARAM_CANDIDATES, dropout has HPARAM_RANGE",
        ),
        (
            "hparam_tuning_algorithm='VIZIER_DEFAULT'",
            "hparam_tuning_algorithm 'VIZIER_DEFAULT' is not supported yet",
        ),
    ];
    let of_classifiers =
        of_classifiers.map(|(text, message)| (format!("model_type='dnn_classifier', {text}"), message));
    let cases = cases.map(|(text, message)| (text.to_owned(), message));
    let wrong: Vec<String> = cases
        .iter()
        .chain(&of_classifiers)
        .map(|(text, message)| (text, message, read(text).unwrap_err().to_string()))
        .filter(|(_, message, found)| !found.contains(*message))
        .map(|(text, message, found)| format!("{text}\n  {found}\n  {message}\n"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn options_are_merged_by_what_they_mean() {
    let saved = options("model_type='dnn_classifier', learn_rate=0.1, epochs=3");
    let merged = merge(&saved, &options("learning_rate=0.2, warm_start=TRUE"));
    let text: Vec<String> = merged.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        ["model_type = 'dnn_classifier'", "epochs = 3", "learning_rate = 0.2", "warm_start = TRUE"]
    );
}

#[test]
fn options_of_other_statements() {
    let alter = AlterOptions::read(&options("active_version=2, labels=['a']")).unwrap();
    let expected =
        AlterOptions { active_version: Some(2), description: None, labels: Some(vec!["a".into()]) };
    assert_eq!(alter, expected);
    let e = AlterOptions::read(&options("activ_version=2")).unwrap_err().to_string();
    assert!(e.contains("did you mean 'active_version'?"), "{e}");
    let e = AlterOptions::read(&options("epochs=2")).unwrap_err().to_string();
    assert!(
        e.contains(
            "unknown option 'epochs' at line 2 column 10; there are active_version, description, labels"
        ),
        "{e}"
    );
    let export = ExportOptions::read(&options("uri='f', format='ONNX'")).unwrap();
    assert_eq!(export, ExportOptions { uri: "f".into(), format: Format::Onnx });
    let e = ExportOptions::read(&[]).unwrap_err().to_string();
    assert!(e.contains("EXPORT MODEL needs OPTIONS (uri = 'file:///..')"), "{e}");
}
