//! What the parser gives.

use std::fmt;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query};

use super::value::ModelOption;
use crate::name::ModelName;

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// One of DataFusion's; in it, a model that an `ML.` function names is a string, [`super::ModelRef`].
    Sql(Box<DfStatement>),
    /// `CREATE MODEL`.
    CreateModel(CreateModel),
    /// `RETRAIN MODEL`.
    Retrain(Retrain),
    /// `DROP MODEL [IF EXISTS] name [VERSION n]`.
    DropModel {
        /// The model.
        name: ModelName,
        /// All versions when absent.
        version: Option<u64>,
        /// Whether a model that is not there is no error.
        if_exists: bool,
    },
    /// `ALTER MODEL`.
    AlterModel {
        /// The model.
        name: ModelName,
        /// What changes.
        change: Change,
    },
    /// `SHOW MODELS [LIKE 'pattern'] [IN schema]`.
    ShowModels {
        /// A pattern with `%` and `_`.
        like: Option<String>,
        /// All schemas when absent.
        schema: Option<String>,
    },
    /// `SHOW CREATE MODEL name`.
    ShowCreateModel(ModelName),
    /// `DESCRIBE MODEL name [VERSION n]`.
    DescribeModel {
        /// The model.
        name: ModelName,
        /// The active one when absent.
        version: Option<u64>,
    },
    /// `EXPORT MODEL name [VERSION n] OPTIONS (..)`.
    ExportModel {
        /// The model.
        name: ModelName,
        /// The active one when absent.
        version: Option<u64>,
        /// For [`crate::options::ExportOptions`].
        options: Vec<ModelOption>,
    },
    /// `EXPLAIN [ANALYZE] [VERBOSE] CREATE MODEL ..`.
    Explain {
        /// Whether it is run, and not committed.
        analyze: bool,
        /// Whether every step of the planning is shown.
        verbose: bool,
        /// What is explained.
        create: CreateModel,
    },
    /// `VACUUM MODELS [RETAIN n VERSIONS]`.
    VacuumModels {
        /// How many versions of each model stay; all when absent.
        retain: Option<u64>,
    },
}

/// `CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name [TRANSFORM (..)] [OPTIONS (..)] {AS query | FROM 'uri'}`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateModel {
    /// Whether a model of this name gets a new version; never together with `if_not_exists`.
    pub or_replace: bool,
    /// Whether a model of this name is no error.
    pub if_not_exists: bool,
    /// The model.
    pub name: ModelName,
    /// What becomes of the query's columns; `None` takes them as they are.
    pub transform: Option<Vec<TransformItem>>,
    /// For [`crate::options::ModelOptions`].
    pub options: Vec<ModelOption>,
    /// Where it comes from.
    pub source: Source,
    /// The statement as written, without its `;`.
    pub sql: String,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// It is trained on the rows of a query.
    Query {
        /// To be planned.
        query: Box<Query>,
        /// As written.
        sql: String,
    },
    /// It is read from files.
    Import(String),
}

/// `RETRAIN MODEL name [OPTIONS (..)] [AS query]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrain {
    /// The model.
    pub name: ModelName,
    /// Those that differ from the saved ones; [`crate::options::merge`] puts both together.
    pub options: Vec<ModelOption>,
    /// The saved query when absent; never [`Source::Import`].
    pub source: Option<Source>,
    /// The statement as written, without its `;`.
    pub sql: String,
}

/// One item of `TRANSFORM (..)`.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformItem {
    /// The expression; `Expr::Wildcard` or `Expr::QualifiedWildcard` for `*` and `t.*`.
    pub expr: Expr,
    /// The name behind `AS`, normalised.
    pub alias: Option<String>,
    /// The expression as written, without its alias.
    pub sql: String,
}

impl fmt::Display for TransformItem {
    /// As SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql)?;
        match &self.alias {
            Some(alias) => write!(f, " AS {}", Ident::with_quote('"', alias)),
            None => Ok(()),
        }
    }
}

/// What `ALTER MODEL` does.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// `SET OPTIONS (..)`, for [`crate::options::AlterOptions`].
    SetOptions(Vec<ModelOption>),
    /// `RENAME TO name`.
    RenameTo(ModelName),
}
