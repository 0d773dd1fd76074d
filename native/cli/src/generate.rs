//! The faces of the hyper-parameters: Scala params, Python properties, the reference page, all from one table.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use firesteel_error::{Error, Kind, Result};
use firesteel_train::params::{Domain, Param, Range, TABLE, camel_case};

const SOURCE: &str = "Generated from native/train/src/params.rs by `make generate`; do not edit.";

/// A generated file, by its path in the source tree.
type Face = (&'static str, fn() -> String);

const FACES: &[Face] = &[
    ("scala/src/main/scala/firesteel/ml/NeuralParams.scala", scala),
    ("python/firesteel/_params.py", python),
    ("docs/reference/parameters.md", reference),
    ("docs/reference/sql.md", firesteel_sql::options::reference),
    ("docs/strategies.md", crate::strategies::page),
];

/// Writes all faces below `root`.
///
/// # Errors
/// `Io` naming the file.
pub fn write(root: &Path) -> Result<()> {
    for (path, face) in FACES.iter().copied() {
        let path = root.join(path);
        let failed = |e| Error::new(Kind::Io, format!("cannot write {}", path.display())).with_source(e);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::write(&path, face()).map_err(failed)?;
    }
    Ok(())
}

/// Compares all faces below `root` with what would be written.
///
/// # Errors
/// `InvalidArgument` naming the first file that differs.
pub fn check(root: &Path) -> Result<()> {
    for (path, face) in FACES.iter().copied() {
        if fs::read_to_string(root.join(path)).ok() != Some(face()) {
            return Err(Error::argument(format!("{path} is not what the table gives; run `make generate`")));
        }
    }
    Ok(())
}

fn name(param: &Param) -> String {
    camel_case(param.name)
}

/// `epochs` to `Epochs`.
fn capitalised(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_ascii_uppercase() + rest
}

fn scala() -> String {
    let mut out = format!(
        "// {SOURCE}\npackage firesteel.ml\n\nimport com.fasterxml.jackson.databind.node.ObjectNode\n\
         import org.apache.spark.ml.param._\n\n/** The hyper-parameters of the estimators. */\n\
         trait NeuralParams extends Params {{\n"
    );
    for param in TABLE {
        scala_param(&mut out, param);
    }
    scala_defaults(&mut out);
    scala_json(&mut out);
    out.push_str(
        "}\n\n/** Their setters, for estimators. */\ntrait NeuralParamSetters extends NeuralParams {\n",
    );
    for param in TABLE {
        let (name, (_, value)) = (name(param), scala_types(param.domain));
        let set = capitalised(&name);
        _ = writeln!(
            out,
            "\n  /** @group setParam */\n  def set{set}(value: {value}): this.type = set({name}, value)"
        );
    }
    out.push_str("}\n");
    out
}

fn scala_types(domain: Domain) -> (&'static str, &'static str) {
    match domain {
        Domain::Int { .. } => ("IntParam", "Int"),
        Domain::Seed { .. } => ("LongParam", "Long"),
        Domain::Real { .. } => ("DoubleParam", "Double"),
        Domain::Choice { .. } | Domain::Device { .. } | Domain::Strategy { .. } => {
            ("Param[String]", "String")
        }
        Domain::Flag { .. } => ("BooleanParam", "Boolean"),
    }
}

fn scala_param(out: &mut String, param: &Param) {
    let (name, (class, value)) = (name(param), scala_types(param.domain));
    let allowed = match param.domain {
        Domain::Int { least, .. } => Some(format!("ParamValidators.gtEq({least})")),
        Domain::Real { range, most, .. } => Some(match (range, most) {
            (Range::Positive, None) => "ParamValidators.gt(0)".into(),
            (Range::Positive, Some(most)) => format!("ParamValidators.inRange(0, {most:e}, false, true)"),
            (Range::NotNegative, None) => "ParamValidators.gtEq(0)".into(),
            (Range::NotNegative, Some(most)) => format!("ParamValidators.inRange(0, {most:e}, true, true)"),
            // A fraction has its end.
            (Range::Fraction, _) => "ParamValidators.inRange(0, 1, true, false)".into(),
        }),
        Domain::Choice { choices, .. } => {
            Some(format!("ParamValidators.inArray(Array({}))", quoted(choices.iter().copied())))
        }
        Domain::Device { .. } => Some("_.matches(\"auto|cpu|cuda(:[0-9]+)?\")".into()),
        // Its grammar is the library's, which checks it before a job starts.
        Domain::Strategy { .. } | Domain::Seed { .. } | Domain::Flag { .. } => None,
    };
    let expected = param.domain.text();
    let allowed = allowed.map(|check| format!("Allowed[{value}](\"{name}\", \"{expected}\", {check})"));
    let help = format!("\"{}\"", param.help);
    let arguments = ["this".to_owned(), format!("\"{name}\""), help].into_iter().chain(allowed);
    let arguments: Vec<String> = arguments.map(|a| format!("    {a}")).collect();
    _ = writeln!(out, "\n  /** {}.\n    * @group param\n    */", capitalised(param.help));
    _ = writeln!(out, "  final val {name}: {class} = new {class}(\n{})", arguments.join(",\n"));
    _ = writeln!(
        out,
        "\n  /** @group getParam */\n  final def get{}: {value} = $({name})",
        capitalised(&name)
    );
}

fn scala_defaults(out: &mut String) {
    let default = |param: &Param| {
        let value = match param.domain {
            Domain::Int { default, .. } => default.to_string(),
            Domain::Seed { default } => format!("{default}L"),
            Domain::Real { default, .. } => format!("{default:?}"),
            Domain::Choice { default, .. } | Domain::Device { default } | Domain::Strategy { default } => {
                format!("\"{default}\"")
            }
            Domain::Flag { default } => default.to_string(),
        };
        format!("    {} -> {value}", name(param))
    };
    let all: Vec<String> = TABLE.iter().map(default).collect();
    _ = writeln!(out, "\n  setDefault(\n{})", all.join(",\n"));
}

fn scala_json(out: &mut String) {
    out.push_str(
        "\n  /** As the native library reads them. */\n  private[ml] def hyperParameters: ObjectNode = {\n",
    );
    out.push_str("    val json = Wire.json.createObjectNode()\n");
    for param in TABLE {
        _ = writeln!(out, "    json.put(\"{}\", $({}))", param.name, name(param));
    }
    out.push_str("    json\n  }\n");
}

/// Words in quotes, with commas between.
fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
}

fn python() -> String {
    let mut out = format!(
        "# {SOURCE}\n\"\"\"The hyper-parameters of the estimators.\"\"\"\n\nfrom __future__ import annotations\n\n\
         from typing import Any\n\nfrom pyspark.ml.param import Param, Params, TypeConverters\n\n\n\
         class _NeuralParams(Params):\n    \"\"\"The params of estimators and models, with their getters.\"\"\"\n"
    );
    for param in TABLE {
        let (class, converter) = python_types(param.domain);
        let name = name(param);
        _ = writeln!(
            out,
            "\n    {name}: Param[{class}] = Param(\n        Params._dummy(),\n        \"{name}\",\n        \"{}\",\n        \
             typeConverter=TypeConverters.{converter},\n    )",
            param.help
        );
    }
    python_defaults(&mut out);
    for param in TABLE {
        let (class, _) = python_types(param.domain);
        let name = name(param);
        _ = writeln!(
            out,
            "\n    def get{}(self) -> {class}:\n        \"\"\"Gets the value of {name}.\"\"\"\n        \
             return self.getOrDefault(self.{name})",
            capitalised(&name)
        );
    }
    out.push_str(
        "\n\nclass _NeuralParamSetters(_NeuralParams):\n    \"\"\"Their setters, for estimators.\"\"\"\n",
    );
    for param in TABLE {
        let (class, _) = python_types(param.domain);
        let name = name(param);
        _ = writeln!(
            out,
            "\n    def set{}(self, value: {class}) -> Any:\n        \"\"\"Sets {name}: {}.\"\"\"\n        \
             return self._set({name}=value)",
            capitalised(&name),
            param.domain.text()
        );
    }
    out
}

/// As `pyspark.ml` declares them: through every class that is behind this one, with what is theirs.
fn python_defaults(out: &mut String) {
    out.push_str(
        "\n    def __init__(self, *args: Any) -> None:\n        super().__init__(*args)\n        self._setDefault(\n",
    );
    for param in TABLE {
        let value = match param.domain {
            Domain::Int { default, .. } | Domain::Seed { default } => default.to_string(),
            Domain::Real { default, .. } => format!("{default:?}"),
            Domain::Choice { default, .. } | Domain::Device { default } | Domain::Strategy { default } => {
                format!("\"{default}\"")
            }
            Domain::Flag { default } => if default { "True" } else { "False" }.into(),
        };
        _ = writeln!(out, "            {}={value},", name(param));
    }
    out.push_str("        )\n");
}

fn python_types(domain: Domain) -> (&'static str, &'static str) {
    match domain {
        Domain::Int { .. } | Domain::Seed { .. } => ("int", "toInt"),
        Domain::Real { .. } => ("float", "toFloat"),
        Domain::Choice { .. } | Domain::Device { .. } | Domain::Strategy { .. } => ("str", "toString"),
        Domain::Flag { .. } => ("bool", "toBoolean"),
    }
}

fn reference() -> String {
    let mut out = format!(
        "<!-- {SOURCE} -->\n\n# Hyper-parameters\n\n\
         Spark and Python write them as in the first column, JSON and SQL as in the second.\n\n\
         | Spark, Python | JSON, SQL | default | allowed | what it is |\n| --- | --- | --- | --- | --- |\n"
    );
    for param in TABLE {
        let default = param.domain.default_value();
        let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
        let allowed = param.domain.text();
        _ = writeln!(
            out,
            "| `{}` | `{}` | {default} | {allowed} | {} |",
            name(param),
            param.name,
            param.help
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that declare it, whatever help texts say.
    #[test]
    fn every_face_declares_every_parameter() {
        let declarations: [fn(&Param) -> Vec<String>; 3] = [
            |param| {
                let (name, (class, value)) = (name(param), scala_types(param.domain));
                let set = capitalised(&name);
                vec![
                    format!("  final val {name}: {class} = new {class}("),
                    format!("  final def get{set}: {value} = $({name})"),
                    format!("  def set{set}(value: {value}): this.type = set({name}, value)"),
                    format!("    json.put(\"{}\", $({name}))", param.name),
                ]
            },
            |param| {
                let (name, (class, _)) = (name(param), python_types(param.domain));
                let set = capitalised(&name);
                vec![
                    format!("    {name}: Param[{class}] = Param("),
                    format!("    def get{set}(self) -> {class}:"),
                    format!("    def set{set}(self, value: {class}) -> Any:"),
                ]
            },
            |_| Vec::new(),
        ];
        let starts: [fn(&Param) -> String; 3] = [
            |param| format!("    {} -> ", name(param)),
            |param| format!("            {}=", name(param)),
            |param| format!("| `{}` | `{}` | ", name(param), param.name),
        ];
        for (((path, face), lines), start) in FACES.iter().zip(declarations).zip(starts) {
            let text = face();
            for param in TABLE {
                for line in lines(param) {
                    assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{path}: {line}");
                }
                let start = start(param);
                assert_eq!(text.lines().filter(|l| l.starts_with(&start)).count(), 1, "{path}: {start}");
            }
        }
    }

    /// A bound that the table has reaches Spark, before a job starts.
    #[test]
    fn the_largest_value_is_declared() {
        let check = "ParamValidators.inRange(0, 1e9, false, true)";
        let allowed = "Allowed[Double](\"timeoutSeconds\", \"a number above 0 and at most 1e9\"";
        assert!(scala().contains(&format!("    {allowed}, {check}))\n")));
        assert!(reference().contains("a number above 0 and at most 1e9"));
    }

    #[test]
    fn a_face_that_was_edited_is_found() {
        let root = tempfile::tempdir().unwrap();
        write(root.path()).unwrap();
        check(root.path()).unwrap();
        fs::write(root.path().join(FACES[1].0), "edited").unwrap();
        let e = check(root.path()).unwrap_err().to_string();
        assert_eq!(e, "python/firesteel/_params.py is not what the table gives; run `make generate`");
    }
}
