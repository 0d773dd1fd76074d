//! What is parsed, on every dialect; what is refused, and in which words.

use datafusion::sql::sqlparser::dialect::{
    BigQueryDialect, DatabricksDialect, Dialect, DuckDbDialect, GenericDialect, MySqlDialect,
    PostgreSqlDialect,
};

use super::*;
use crate::name::ModelName;

const DIALECTS: [&dyn Dialect; 6] = [
    &GenericDialect {},
    &PostgreSqlDialect {},
    &BigQueryDialect {},
    &DatabricksDialect {},
    &DuckDbDialect {},
    &MySqlDialect {},
];

/// The one statement of a text, the same in all dialects.
fn one(sql: &str) -> Statement {
    let mut all = DIALECTS.iter().map(|dialect| {
        let mut statements = parse(sql, *dialect, true).unwrap_or_else(|e| panic!("{dialect:?}: {sql}: {e}"));
        assert_eq!(statements.len(), 1, "{dialect:?}: {sql}");
        statements.remove(0)
    });
    let first = all.next().unwrap();
    for other in all {
        if !matches!(first, Statement::Sql(_)) {
            assert_eq!(format!("{other:?}"), format!("{first:?}"), "{sql}");
        }
    }
    first
}

fn create(sql: &str) -> CreateModel {
    match one(sql) {
        Statement::CreateModel(create) => create,
        other => panic!("{sql}: {other:?}"),
    }
}

/// What DataFusion's parser is left with.
fn rewritten(sql: &str) -> String {
    match one(sql) {
        Statement::Sql(statement) => statement.to_string(),
        other => panic!("{sql}: {other:?}"),
    }
}

fn refused(sql: &str) -> String {
    let messages: Vec<String> =
        DIALECTS.iter().map(|dialect| parse(sql, *dialect, true).unwrap_err().to_string()).collect();
    messages[0].clone()
}

fn model(schema: &str, name: &str) -> ModelName {
    ModelName { schema: schema.into(), name: name.into() }
}

#[test]
fn create_model_in_full() {
    let sql = "CREATE OR REPLACE MODEL Lab.Iris\n TRANSFORM (ML.STANDARD_SCALER(age) OVER () AS Age_S, a * b ab, label)\n \
               OPTIONS (model_type = 'dnn_classifier', HIDDEN_UNITS=[16, 8], learn_rate = 1e-3, x=-1, e = TRUE,\n \
               w = [STRUCT('a' AS label, 0.3 AS Weight)], o = adam)\n AS SELECT * FROM iris WHERE a > 'ü;'";
    let made = create(&format!("{sql} ; "));
    assert!(made.or_replace && !made.if_not_exists);
    assert_eq!(made.name, model("lab", "iris"));
    assert_eq!(made.sql, sql);
    let items: Vec<(&str, Option<&str>)> =
        made.transform.iter().flatten().map(|i| (i.sql.as_str(), i.alias.as_deref())).collect();
    let expected =
        [("ML.STANDARD_SCALER(age) OVER ()", Some("age_s")), ("a * b", Some("ab")), ("label", None)];
    assert_eq!(items, expected);
    let options: Vec<String> = made.options.iter().map(ToString::to_string).collect();
    let expected = [
        "model_type = 'dnn_classifier'",
        "hidden_units = [16, 8]",
        "learn_rate = 1e-3",
        "x = -1",
        "e = TRUE",
        "w = [STRUCT('a' AS label, 0.3 AS weight)]",
        "o = adam",
    ];
    assert_eq!(options, expected);
    assert_eq!((made.options[0].line, made.options[0].column), (3, 11));
    assert_eq!((made.options[5].line, made.options[5].column), (4, 2));
    let Source::Query { query, sql } = made.source else { panic!("no query") };
    assert_eq!(sql, "SELECT * FROM iris WHERE a > 'ü;'");
    assert_eq!(query.to_string(), sql);
}

#[test]
fn create_model_in_short() {
    let made = create("create model if not exists m as (values (1))");
    assert!(made.if_not_exists && !made.or_replace);
    assert_eq!((made.transform, made.options.len()), (None, 0));
    let made = create("CREATE MODEL m OPTIONS () FROM 'file:///m'");
    assert_eq!(made.source, Source::Import("file:///m".into()));
    let made = create("CREATE MODEL m TRANSFORM (*) AS WITH q AS (SELECT 1 AS a) SELECT * FROM q");
    assert_eq!(made.transform.unwrap()[0].sql, "*");
    let quoted = parse("CREATE MODEL \"My\".\"Mo@del\" AS SELECT 1", &GenericDialect {}, true).unwrap();
    assert!(matches!(&quoted[0], Statement::CreateModel(c) if c.name == model("My", "Mo@del")));
    let kept = parse("CREATE MODEL Iris AS SELECT 1", &GenericDialect {}, false).unwrap();
    assert!(matches!(&kept[0], Statement::CreateModel(c) if c.name == model("public", "Iris")));
}

#[test]
fn values_of_options() {
    let cases = [
        ("HPARAM_RANGE(0, 0.5)", "HPARAM_RANGE(0, 0.5)"),
        (
            "hparam_candidates([STRUCT([8,16]), STRUCT([4])])",
            "HPARAM_CANDIDATES([STRUCT([8, 16]), STRUCT([4])])",
        ),
        ("array[1, +2, - 3]", "[1, 2, -3]"),
        ("'it''s'", "'it''s'"),
        ("[]", "[]"),
        ("false", "FALSE"),
    ];
    for (written, read) in cases {
        let made = create(&format!("CREATE MODEL m OPTIONS (k = {written}) AS SELECT 1"));
        assert_eq!(made.options[0].value.to_string(), read);
        let again = create(&format!("CREATE MODEL m OPTIONS (k = {read}) AS SELECT 1"));
        assert_eq!(again.options, made.options);
    }
}

#[test]
fn the_other_statements() {
    let name = || ModelName::bare("m");
    let cases = [
        ("DROP MODEL m", Statement::DropModel { name: name(), version: None, if_exists: false }),
        (
            "DROP MODEL IF EXISTS s.m VERSION 2",
            Statement::DropModel { name: model("s", "m"), version: Some(2), if_exists: true },
        ),
        ("drop model M@2;", Statement::DropModel { name: name(), version: Some(2), if_exists: false }),
        (
            "ALTER MODEL m RENAME TO s.n",
            Statement::AlterModel { name: name(), change: Change::RenameTo(model("s", "n")) },
        ),
        (
            "ALTER MODEL m SET OPTIONS (active_version = 1)",
            Statement::AlterModel {
                name: name(),
                change: Change::SetOptions(vec![ModelOption::new(
                    "active_version",
                    OptionValue::Number("1".into()),
                )]),
            },
        ),
        ("SHOW MODELS", Statement::ShowModels { like: None, schema: None }),
        (
            "SHOW MODELS LIKE 'ir%' IN Lab",
            Statement::ShowModels { like: Some("ir%".into()), schema: Some("lab".into()) },
        ),
        ("SHOW CREATE MODEL m", Statement::ShowCreateModel(name())),
        ("DESCRIBE MODEL m", Statement::DescribeModel { name: name(), version: None }),
        ("DESC MODEL m@3", Statement::DescribeModel { name: name(), version: Some(3) }),
        (
            "EXPORT MODEL m VERSION 2 OPTIONS (uri = 'f')",
            Statement::ExportModel {
                name: name(),
                version: Some(2),
                options: vec![ModelOption::new("uri", OptionValue::String("f".into()))],
            },
        ),
        ("VACUUM MODELS", Statement::VacuumModels { retain: None }),
        ("VACUUM MODELS RETAIN 3 VERSIONS", Statement::VacuumModels { retain: Some(3) }),
        (
            "RETRAIN MODEL m",
            Statement::Retrain(Retrain {
                name: name(),
                options: vec![],
                source: None,
                sql: "RETRAIN MODEL m".into(),
            }),
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(one(sql), expected);
    }
    let Statement::Retrain(retrain) = one("RETRAIN MODEL m OPTIONS (epochs = 3) AS SELECT 1") else {
        panic!()
    };
    assert_eq!(retrain.options.len(), 1);
    assert!(matches!(retrain.source, Some(Source::Query { sql, .. }) if sql == "SELECT 1"));
}

#[test]
fn explain_create() {
    let create = "CREATE OR REPLACE MODEL m AS SELECT 1";
    for (words, expected) in [
        ("", (false, false)),
        ("ANALYZE", (true, false)),
        ("ANALYZE VERBOSE", (true, true)),
        ("VERBOSE FORMAT INDENT", (false, true)),
        ("(ANALYZE, VERBOSE TRUE)", (true, true)),
        ("(ANALYZE OFF)", (false, false)),
    ] {
        match one(&format!("EXPLAIN {words} {create}")) {
            Statement::Explain { analyze, verbose, create: made } => {
                assert_eq!((analyze, verbose), expected, "{words}");
                assert_eq!(made.sql, create);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused(&format!("EXPLAIN FORMAT TREE {create}")).contains("Expected: INDENT, the only format"));
    assert_eq!(rewritten("EXPLAIN SELECT 1"), "EXPLAIN SELECT 1");
}

#[test]
fn statements_follow_each_other() {
    let sql = ";;SELECT 1; CREATE MODEL m AS SELECT 2;\nSHOW MODELS;DROP MODEL m ; SELECT ';' ;";
    for dialect in DIALECTS {
        let statements = parse(sql, dialect, true).unwrap();
        assert_eq!(statements.len(), 5);
        assert!(matches!(&statements[1], Statement::CreateModel(c) if c.sql == "CREATE MODEL m AS SELECT 2"));
    }
    for nothing in ["", ";", " -- nothing\n;", "/* nothing */"] {
        assert_eq!(parse(nothing, &GenericDialect {}, true).unwrap(), []);
    }
}

#[test]
fn models_in_functions() {
    let cases = [
        ("SELECT * FROM ML.PREDICT(MODEL iris, TABLE iris)", "ML.PREDICT('iris', (SELECT * FROM iris))"),
        ("SELECT * FROM ml.predict(model Iris@2, (SELECT 1))", "ml.predict('iris@2', (SELECT 1))"),
        (
            "SELECT * FROM ML.PREDICT(MODEL lab.iris VERSION 12, TABLE a.b.c)",
            "ML.PREDICT('lab.iris@12', (SELECT * FROM a.b.c))",
        ),
        ("SELECT * FROM ML.EVALUATE(MODEL iris)", "ML.EVALUATE('iris')"),
        (
            "SELECT * FROM ML.PREDICT('iris@2', (SELECT 1), threshold => 0.5)",
            "ML.PREDICT('iris@2', (SELECT 1), threshold => 0.5)",
        ),
        (
            "SELECT * FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(0.5 AS threshold, CAST(1 AS BIGINT) AS top_k))",
            "ML.PREDICT('m', (SELECT * FROM t), threshold => 0.5, top_k => CAST(1 AS BIGINT))",
        ),
        (
            "SELECT * FROM ML.EVALUATE(MODEL m, STRUCT(0.5 AS threshold))",
            "ML.EVALUATE('m', threshold => 0.5)",
        ),
        ("SELECT * FROM ML.PREDICT(MODEL m, TABLE t, STRUCT())", "ML.PREDICT('m', (SELECT * FROM t))"),
        ("SELECT * FROM ML . PREDICT ( MODEL m , TABLE t )", "ML.PREDICT('m', (SELECT * FROM t))"),
    ];
    for (sql, expected) in cases {
        let out = rewritten(sql);
        assert!(out.contains(expected), "{sql}\n{out}");
        assert_eq!(rewritten(&out), out, "twice is once");
    }
}

#[test]
fn models_anywhere_in_a_statement() {
    let predict = "ML.PREDICT(MODEL m, TABLE t)";
    let inner = "ML.PREDICT('m', (SELECT * FROM t))";
    for around in [
        "SELECT * FROM a JOIN @ AS b ON a.x = b.x",
        "WITH q AS (SELECT * FROM @) SELECT * FROM q",
        "SELECT * FROM (SELECT * FROM @) AS q",
        "SELECT * FROM t WHERE x IN (SELECT x FROM @)",
        "SELECT * FROM ML.PREDICT('n', (SELECT * FROM @))",
        "CREATE VIEW v AS SELECT * FROM @",
        "CREATE TABLE c AS SELECT * FROM @",
        "INSERT INTO c SELECT * FROM @",
        "EXPLAIN SELECT * FROM @",
        "PREPARE p AS SELECT * FROM @",
        "COPY (SELECT * FROM @) TO 'x.parquet'",
        "SELECT * FROM @ UNION ALL SELECT * FROM @",
    ] {
        let out = rewritten(&around.replace('@', predict));
        let expected = around.matches('@').count();
        assert_eq!(out.matches(inner).count(), expected, "{around}\n{out}");
    }
    let made = create("CREATE MODEL n AS SELECT * FROM ML.PREDICT(MODEL m, TABLE t)");
    let Source::Query { query, sql } = made.source else { panic!("no query") };
    assert_eq!(sql, "SELECT * FROM ML.PREDICT(MODEL m, TABLE t)");
    assert!(query.to_string().contains(inner));
}

#[test]
fn odd_names_survive() {
    for (quote, dialect) in
        [('"', &PostgreSqlDialect {} as &dyn Dialect), ('`', &MySqlDialect {}), ('"', &GenericDialect {})]
    {
        for name in ["Iris", "a.b", "a@2", "a'b", "a b", "model", "x)y,"] {
            let sql = format!(
                "SELECT * FROM ML.PREDICT(MODEL {quote}{name}{quote} VERSION 3, TABLE {quote}{name}{quote})"
            );
            let Statement::Sql(statement) = parse(&sql, dialect, true).unwrap().remove(0) else { panic!() };
            let literal = ModelRef::encode(&ModelName::bare(name), Some(3)).replace('\'', "''");
            let out = statement.to_string();
            assert!(
                out.contains(&format!("ML.PREDICT('{literal}', (SELECT * FROM {quote}{name}{quote}))")),
                "{out}"
            );
            assert_eq!(
                ModelRef::decode(&literal.replace("''", "'")).unwrap(),
                (ModelName::bare(name), Some(3))
            );
        }
    }
}

#[test]
fn model_is_a_name_like_any_other() {
    for sql in [
        "SELECT model, count(*) FROM (SELECT 'a' AS model) GROUP BY model ORDER BY model",
        "SELECT id AS model FROM churn LIMIT 1",
        "SELECT model.train, models.model FROM model, models, train AS evaluate",
        "SELECT model FROM model",
        "SELECT model m FROM model AS model",
        "SELECT f(model, 1), max(model) FROM t",
        "SELECT ml.model FROM ml",
        "SELECT * FROM ml.models",
        "SELECT ml.bucketize(model, 2), ml.f(model IS NULL), ml.f(model IN (1)), ml.f(1, model + 1) FROM t",
        "SELECT ml.feature_cross(STRUCT(a, b), 2) FROM t",
        "CREATE TABLE model (model INT, models INT)",
        "DROP TABLE model",
        "DESCRIBE model",
        "SELECT 'CREATE MODEL m', 'ML.PREDICT(MODEL m)'",
        "SELECT retrain, export FROM vacuum",
        "SET model = 1",
        "SELECT transform, options FROM t WHERE version = 1",
    ] {
        for dialect in DIALECTS {
            let plain = datafusion::sql::parser::DFParser::parse_sql_with_dialect(sql, dialect);
            match (parse(sql, dialect, true), plain) {
                (Ok(ours), Ok(theirs)) => {
                    assert_eq!(ours, [Statement::Sql(Box::new(theirs[0].clone()))], "{dialect:?}: {sql}");
                }
                (Err(ours), Err(theirs)) => {
                    assert_eq!(ours.to_string(), theirs.to_string(), "{dialect:?}: {sql}")
                }
                (ours, theirs) => panic!("{dialect:?}: {sql}\n{ours:?}\n{theirs:?}"),
            }
        }
    }
}

#[test]
fn mistakes_are_named() {
    let cases = [
        ("CREATE MODEL", "Expected: the name of a model, found: EOF"),
        ("CREATE MODEL AS SELECT 1", "Expected: the name of a model, found: AS at Line: 1, Column: 14"),
        ("CREATE MODEL m", "Expected: AS query or FROM 'uri', found: EOF"),
        (
            "CREATE MODEL m\nOPTIONS (a = 1) TRANSFORM (x) AS SELECT 1",
            "Expected: AS query or FROM 'uri' (TRANSFORM stands before OPTIONS), found: TRANSFORM at Line: 2, Column: 17",
        ),
        (
            "CREATE MODEL m@2 AS SELECT 1",
            "Expected: a model without a version, found: m@2 at Line: 1, Column: 14",
        ),
        (
            "CREATE MODEL a.b.c AS SELECT 1",
            "a model is named schema.name at most, found a.b.c at Line: 1, Column: 14",
        ),
        (
            "CREATE OR REPLACE MODEL IF NOT EXISTS m AS SELECT 1",
            "OR REPLACE and IF NOT EXISTS do not go together at Line: 1, Column: 25",
        ),
        (
            "CREATE MODEL m FROM file",
            "Expected: the uri of a model in quotes, or AS query to train one, found: file",
        ),
        ("CREATE MODEL m TRANSFORM (x) FROM 'f'", "TRANSFORM goes with AS query, not with FROM 'uri'"),
        ("CREATE MODEL m AS INSERT INTO t SELECT 1", "a model is trained on a query, this changes data"),
        (
            "CREATE MODEL m AS SELECT 1 SELECT 2",
            "Expected: end of statement, found: SELECT at Line: 1, Column: 28",
        ),
        ("CREATE MODEL m OPTIONS ('k' 'v') AS SELECT 1", "use key = value: k = 'v'"),
        ("CREATE MODEL m OPTIONS ('k' = 1) AS SELECT 1", "use key = value: k = 1"),
        (
            "CREATE MODEL m OPTIONS (k 'v') AS SELECT 1",
            "Expected: = behind 'k' (options are written key = value), found: 'v' at Line: 1, Column: 27",
        ),
        ("CREATE MODEL m OPTIONS (k = ) AS SELECT 1", "Expected: a value, found: )"),
        (
            "CREATE MODEL m OPTIONS (k = 1 * 2) AS SELECT 1",
            "Expected: , or ) behind the value of an option, found: * at Line: 1, Column: 31",
        ),
        ("CREATE MODEL m OPTIONS (k = now()) AS SELECT 1", "Expected: a literal, not a function, found: now"),
        ("CREATE MODEL m OPTIONS (k = [1, 2) AS SELECT 1", "Expected: , or ], found: )"),
        ("CREATE MODEL m OPTIONS (k = - 'a') AS SELECT 1", "Expected: a number, found: 'a'"),
        ("CREATE MODEL m OPTIONS (k = HPARAM_RANGE(1)) AS SELECT 1", "HPARAM_RANGE takes two numbers"),
        ("CREATE MODEL m OPTIONS (k = HPARAM_CANDIDATES(1)) AS SELECT 1", "HPARAM_CANDIDATES takes a list"),
        ("CREATE MODEL m OPTIONS (k = [[[[[[[[[[[1]]]]]]]]]]]) AS SELECT 1", "nests too deep"),
        ("CREATE MODEL m TRANSFORM () AS SELECT 1", "Expected: an expression, found: )"),
        ("CREATE MODEL m TRANSFORM (a, b AS SELECT 1", "Expected: , or ) in TRANSFORM, found: 1"),
        ("DROP MODEL m VERSION x", "Expected: the number of a version, found: x"),
        ("DROP MODEL m n", "Expected: end of statement, found: n"),
        ("ALTER MODEL m SET x", "Expected: SET OPTIONS (..) or RENAME TO name, found: x"),
        ("SHOW MODELS LIKE m", "Expected: a pattern in quotes, found: m"),
        ("VACUUM MODELS RETAIN all", "Expected: how many versions stay, found: all"),
        (
            "SELECT * FROM ML.PREDICT(MODEL m TABLE t)",
            "Expected: , or ) behind the name of the model, found: TABLE at Line: 1, Column: 34",
        ),
        (
            "SELECT * FROM ML.PREDICT(MODEL m, TABLE t x)",
            "Expected: , or ) behind the name of the table, found: x",
        ),
        (
            "SELECT * FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(0.5 AS threshold, 3))",
            "each setting in STRUCT(..) needs a name: STRUCT(0.5 AS threshold) at Line: 1, Column: 69",
        ),
        ("SELECT * FROM ML.PREDICT(MODEL m VERSION two)", "Expected: the number of a version, found: two"),
        ("SELECT 'a", "Unterminated string literal"),
    ];
    for (sql, message) in cases {
        let found = refused(sql);
        assert!(found.contains(message), "{sql}\n{found}\n{message}");
    }
}

/// Draws numbers (SplitMix64, Steele et al. 2014).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

const SEEDS: [&str; 9] = [
    "CREATE OR REPLACE MODEL s.m TRANSFORM (ML.STANDARD_SCALER(a) OVER () AS b, *) OPTIONS (k = [1, 'a'], \
     l = HPARAM_RANGE(0, 0.5), m = STRUCT('a' AS b)) AS SELECT * FROM t",
    "CREATE MODEL IF NOT EXISTS \"a\"\"b\" OPTIONS (hidden_units = HPARAM_CANDIDATES([STRUCT([8, 16])])) FROM 'f'",
    "SELECT * FROM ML.PREDICT(MODEL s.m@2, TABLE a.b, STRUCT(0.5 AS threshold), top_k => 3) WHERE x = 'ä'",
    "WITH q AS (SELECT model FROM ML.EVALUATE(MODEL m VERSION 3)) SELECT * FROM q; SHOW MODELS LIKE 'a%' IN s",
    "RETRAIN MODEL m OPTIONS (epochs = -3e4, x = ARRAY[TRUE]) AS VALUES (1, $1)",
    "ALTER MODEL m SET OPTIONS (active_version = 1); ALTER MODEL m RENAME TO n; DROP MODEL IF EXISTS m@1",
    "EXPLAIN (ANALYZE, VERBOSE) CREATE MODEL m AS SELECT 1; VACUUM MODELS RETAIN 3 VERSIONS",
    "DESCRIBE MODEL m; SHOW CREATE MODEL m; EXPORT MODEL m VERSION 1 OPTIONS (uri = $$x$$)",
    "EXPLAIN ANALYZE VERBOSE FORMAT INDENT CREATE MODEL m AS FROM t -- end\n/* and */",
];

const PIECES: [&str; 40] = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ";",
    "=",
    "=>",
    ".",
    "@",
    "@2",
    "-",
    "*",
    "'",
    "\"",
    "`",
    "$$",
    "\n",
    "\0",
    "ä",
    "🦀",
    "MODEL ",
    "TABLE ",
    "STRUCT(",
    "ML.F(",
    " AS ",
    " VERSION ",
    "OPTIONS (",
    "TRANSFORM(",
    "EXPLAIN (",
    "CREATE MODEL ",
    "HPARAM_RANGE(",
    "HPARAM_CANDIDATES([",
    "9999999999999999999999",
    "1e999",
    "STRUCT()",
    "--",
    "/*",
];

/// A text near to valid ones.
fn mutated(draw: &mut Draw) -> String {
    let mut text: Vec<char> = SEEDS[draw.below(SEEDS.len())].chars().collect();
    for _ in 0..=draw.below(2) {
        let from = draw.below(text.len() + 1);
        let to = (from + draw.below(8)).min(text.len());
        match draw.below(4) {
            0 => drop(text.drain(from..to)),
            1 => drop(text.splice(from..to, PIECES[draw.below(PIECES.len())].chars())),
            2 => drop(text.splice(from..from, PIECES[draw.below(PIECES.len())].chars())),
            _ => {
                let other: Vec<char> = SEEDS[draw.below(SEEDS.len())].chars().collect();
                let cut = draw.below(other.len());
                text.truncate(from);
                text.extend(&other[cut..]);
            }
        }
    }
    text.into_iter().collect()
}

#[test]
fn no_text_makes_it_panic() {
    let mut draw = Draw(7);
    let mut read = 0;
    for round in 0..20_000 {
        let text = mutated(&mut draw);
        let statements = parse(&text, DIALECTS[round % DIALECTS.len()], round % 2 == 0);
        for statement in statements.into_iter().flatten() {
            read += 1;
            if let Statement::CreateModel(create) = statement {
                let _ = crate::options::ModelOptions::read(&create.options);
            }
        }
    }
    assert!(read > 1_000, "{read}: the mutations are too strong to say much");
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..draw.below(60)).map(|_| draw.below(256) as u8).collect();
        let text = String::from_utf8_lossy(&bytes);
        DIALECTS.iter().for_each(|dialect| drop(parse(&text, *dialect, true)));
    }
}

#[test]
fn depth_is_an_error() {
    for piece in
        ["(", "[", "ML.F(", "ML.F(1, STRUCT(", "SELECT (", "CREATE MODEL m OPTIONS (k = [", "STRUCT(", "NOT "]
    {
        let text = format!("SELECT {}", piece.repeat(50_000));
        assert!(parse(&text, &GenericDialect {}, true).is_err());
        let text = format!("CREATE MODEL m OPTIONS (k = {}", piece.repeat(50_000));
        assert!(parse(&text, &GenericDialect {}, true).is_err());
    }
}
