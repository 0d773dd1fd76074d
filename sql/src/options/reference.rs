//! The reference page.

use std::fmt::Write;

use firesteel_train::params::{self, Domain};

use super::layers;
use super::table::{ALTER_ROWS, EXPORT_ROWS, Kind, ROWS, Row, native};
use crate::spec::UNMET;

/// `docs/reference/sql.md`.
pub fn reference() -> String {
    let mut page = String::from(
        "<!-- Generated from sql/src/options by `make generate`; do not edit. -->\n\n# Options in SQL\n\n\
         Names and words are read in any case. `a`, `b`: two names of one option. Where a hyper-parameter or a part of \
         the network\ntakes one value, `HPARAM_RANGE(least, most)` or `HPARAM_CANDIDATES([..])` makes a search of it.\n",
    );
    table(&mut page, "CREATE MODEL .. OPTIONS", ROWS);
    natives(&mut page);
    section(&mut page, "Layers");
    page.push_str(
        "`layers = ['dense(64)', 'dropout(0.1)', 'linear(32)', 'batch_norm', 'relu']`: each reads the one before; the \
         output\nlayer is added. Strings are embedded and all features joined in front of the first.\n\n\
         | layer | what it is |\n| --- | --- |\n",
    );
    for (form, help) in layers::FORMS {
        line(&mut page, format_args!("| `{form}` | {help} |"));
    }
    table(&mut page, "ALTER MODEL .. SET OPTIONS", ALTER_ROWS);
    table(&mut page, "EXPORT MODEL .. OPTIONS", EXPORT_ROWS);
    section(&mut page, "Not yet");
    page.push_str("These are refused; of some options single values.\n\n| option | value | instead |\n| --- | --- | --- |\n");
    for row in ROWS {
        not_yet(&mut page, row);
    }
    for unmet in UNMET {
        line(&mut page, format_args!("| `{}` | {} | {} |", unmet.option, unmet.values, unmet.instead));
    }
    page
}

fn line(page: &mut String, text: std::fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "{text}");
}

fn section(page: &mut String, title: &str) {
    line(page, format_args!("\n## {title}\n"));
}

fn table(page: &mut String, title: &str, rows: &[Row]) {
    section(page, title);
    page.push_str("| option | values | default | what it is |\n| --- | --- | --- | --- |\n");
    for row in rows.iter().filter(|row| !matches!(row.kind, Kind::NotYet(_))) {
        let other = match row.kind {
            Kind::Param(name) if name != row.name => format!(", `{name}`"),
            _ => String::new(),
        };
        let (default, help) = (default(row), help(row));
        line(page, format_args!("| `{}`{other} | {} | {default} | {help} |", row.name, row.text()));
    }
}

/// Hyper-parameters whose only name is their own.
fn natives(page: &mut String) {
    for param in params::TABLE.iter().filter(|p| !ROWS.iter().any(|row| row.answers_to(p.name))) {
        let (values, default) = (Kind::Param(param.name).text(), domain_default(&param.domain));
        line(page, format_args!("| `{}` | {values} | {default} | {} |", param.name, param.help));
    }
}

fn default(row: &Row) -> String {
    match row.kind {
        Kind::Param(name) if row.default.is_empty() => {
            native(name).map_or_else(String::new, |p| domain_default(&p.domain))
        }
        _ => row.default.into(),
    }
}

fn domain_default(domain: &Domain) -> String {
    match domain {
        Domain::Choice { default, .. } | Domain::Device { default } | Domain::Strategy { default } => {
            (*default).into()
        }
        domain => domain.default_value().to_string(),
    }
}

fn help(row: &Row) -> &'static str {
    match row.kind {
        Kind::Param(name) if row.help.is_empty() => native(name).map_or("", |p| p.help),
        _ => row.help,
    }
}

fn not_yet(page: &mut String, row: &Row) {
    if let Kind::NotYet(instead) = row.kind {
        line(page, format_args!("| `{}` | any | {instead} |", row.name));
    } else if !row.not_yet.is_empty() {
        line(page, format_args!("| `{}` | {} | {} |", row.name, row.not_yet.join(", "), row.text()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_a_line() {
        let page = reference();
        let has = |text: &str| assert!(page.lines().any(|line| line == text), "{text}\n{page}");
        has(
            "| `learn_rate`, `learning_rate` | a positive number | 0.001; 0.02 of linear models | size of a step |",
        );
        has("| `max_iterations`, `epochs` | a whole number from 1 on | 20 | passes over the training rows |");
        has(
            "| `beta1` | a number at least 0 and below 1 | 0.9 | decay of the mean gradient of adam and adamw |",
        );
        has("| `l1_reg` | any | use l2_reg |");
        has("| `uri` | a string |  | where the files go; required |");
        let rows = page.lines().filter(|line| line.starts_with("| `")).collect::<Vec<_>>();
        assert!(rows.iter().all(|line| line.matches(" | ").count() >= 1));
        for param in params::TABLE {
            assert!(page.contains(&format!("`{}`", param.name)), "{}", param.name);
        }
    }
}
