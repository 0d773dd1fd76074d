//! `firesteel strategies`: how workers may train together, and the page about it.

use std::fmt::Write as _;

use clap::Args;
use firesteel_comm::strategy::{Argument, Domain, Entry, Family, entries};
use firesteel_error::{Error, Result};

/// What `firesteel strategies` is told.
#[derive(Debug, Args)]
pub struct Options {
    /// What to say all about; a line on each without one
    name: Option<String>,
}

/// Prints a line on each strategy, compressor and topology, or all about one.
///
/// # Errors
/// `InvalidArgument` for a name that nothing has.
pub fn run(options: &Options) -> Result<()> {
    print!("{}", text(options.name.as_deref())?);
    Ok(())
}

fn text(name: Option<&str>) -> Result<String> {
    let Some(name) = name else { return Ok(list()) };
    let named: Vec<&Entry> = entries().iter().filter(|entry| entry.name == name).collect();
    if named.is_empty() {
        return Err(Error::argument(format!(
            "nothing is called '{name}', expected a name that `strategies` lists"
        )));
    }
    Ok(named.into_iter().map(details).collect::<Vec<_>>().join("\n"))
}

fn list() -> String {
    let mut out = String::new();
    for family in Family::ALL {
        _ = writeln!(out, "{}:", heading(family));
        for entry in of(family) {
            _ = writeln!(out, "  {}\n      {}", signature(entry), entry.does);
        }
        out.push('\n');
    }
    out.push_str(
        "`firesteel strategies NAME` says when to use one, what it sends, what it costs and whose it is.\n",
    );
    out
}

fn details(entry: &Entry) -> String {
    let mut out = format!("{}, a {}: {}\n", signature(entry), entry.family.name(), entry.does);
    for Argument { name, domain, help } in entry.arguments {
        _ = writeln!(out, "  {name}: {help}; {domain}; {} when not given", domain.default());
    }
    for (what, text) in [("when", entry.when), ("sends", entry.sends), ("costs", entry.costs)] {
        _ = writeln!(out, "  {what}: {text}");
    }
    if entry.plain_sgd {
        _ = writeln!(out, "  needs: {PLAIN_SGD}");
    }
    _ = writeln!(out, "  source: {}", entry.source);
    out
}

const PLAIN_SGD: &str = "optimizer sgd with momentum 0";

/// `qsgd(levels=15, bucket=512)`.
fn signature(entry: &Entry) -> String {
    let argument = |argument: &Argument| format!("{}={}", argument.name, argument.domain.default());
    match entry.arguments {
        [] => entry.name.to_owned(),
        some => format!("{}({})", entry.name, some.iter().map(argument).collect::<Vec<_>>().join(", ")),
    }
}

fn of(family: Family) -> impl Iterator<Item = &'static Entry> {
    entries().iter().filter(move |entry| entry.family == family)
}

fn heading(family: Family) -> &'static str {
    match family {
        Family::Strategy => "Strategies",
        Family::Compressor => "Compressors",
        Family::Topology => "Topologies",
    }
}

const INTRODUCTION: &str = "\
# How workers train together

The hyper-parameter `strategy` says what workers send, when and to whom: a name, and arguments in parentheses by name or in their
order. Some arguments are names themselves.

```python
NeuralClassifier(strategy=\"two_phase(min_max_u8, min_max_u8)\")
NeuralClassifier(strategy=\"local(every=16)\", optimizer=\"sgd\", learningRate=0.1)
NeuralClassifier(strategy=\"choco(topology=ring, by=top_k(ratio=0.1), gamma=0.3)\")
```

In SQL it is an option, `OPTIONS (strategy = 'two_phase(sign, sign, feedback=true)')`, and in the command's configuration one of
`params`. What is misspelt, out of its range or does not go together is refused before a row is read; what a number of workers
or a network cannot have, before training starts. `firesteel strategies` prints this page's contents.

The default, `sharded`, is exact and right for most: choose another where the network between workers is what a step waits for.
`firesteel advise` predicts how long a step takes with most of them, over a network that you describe.
A worker that is alone sends nothing, and no strategy plays a part: those with a momentum or moments of their own, which need
`sgd` without momentum, are plain SGD then, and what a checkpoint says of a strategy is not kept by a lone worker.

Which to try, from the least to the most that may be lost:

1. `two_phase(bf16, bf16)` halves what is sent and `two_phase(min_max_u8, min_max_u8)` takes a quarter, with losses that hardly
   differ.
2. `local(every=8)` sends an eighth as often. Give it plain SGD, or a momentum, and rows that are spread evenly.
3. `two_phase(sign, sign, feedback=true)` and `gather(top_k(ratio=0.01))` send a thirtieth and less. What compression leaves is
   kept and sent later, so give them more epochs.
4. Decentralised ones, from `dpsgd` on, where some links are far slower than others.

What holds for all:

- Rows of embedding tables travel as rows, exactly, by their owners, where the strategy is about gradients, unless it says what it
  does with them; where it is about weights, whole.
- Gradients are means over the rows of all workers before they are compressed, so that what feedback keeps has one unit.
- At an epoch's end all workers have the same weights and optimizer state; they are validated and kept in checkpoints then, and
  decentralised ways begin anew from there. A checkpoint has what feedback keeps on each worker: a training goes on bit for bit
  with as many workers (but for `ssp`, `asp`, `downpour`, `timed_average` and `all_reduce(auto)`), and with more or fewer what is still owed is divided among them. Another strategy is refused.
- All that is drawn follows from the seed, the step and the worker.
- On a GPU the gradient is copied to the CPU for all but `sharded`.
- `sync = 'average'` of SQL, whose workers never meet, takes `sharded` alone.
- In a batch to which a worker has no row, it makes no step of its own.
";

/// The page about them.
pub fn page() -> String {
    let mut out = format!(
        "<!-- Generated from native/comm/src/strategy/catalogue.rs by `make generate`; do not edit. -->\n\n{INTRODUCTION}"
    );
    for family in Family::ALL {
        _ = writeln!(out, "\n## {}", heading(family));
        if family == Family::Strategy {
            out.push_str("\nS is the bytes of the gradient or of the weights, n the number of workers, P the length of a payload.\n");
        }
        for entry in of(family) {
            section(&mut out, entry);
        }
    }
    out
}

fn section(out: &mut String, entry: &Entry) {
    _ = writeln!(out, "\n### {}\n\n`{}`: {}.\n", entry.name, signature(entry), entry.does);
    if !entry.arguments.is_empty() {
        out.push_str("| argument | default | allowed | what it is |\n| --- | --- | --- | --- |\n");
        for Argument { name, domain, help } in entry.arguments {
            let default = match domain {
                Domain::Of { default, .. } => format!("`{default}`"),
                domain => domain.default(),
            };
            _ = writeln!(out, "| `{name}` | {default} | {domain} | {help} |");
        }
        out.push('\n');
    }
    _ = writeln!(out, "- When: {}.\n- Sends: {}.\n- Costs: {}.", entry.when, entry.sends, entry.costs);
    if entry.plain_sgd {
        _ = writeln!(out, "- Needs: {PLAIN_SGD}.");
    }
    _ = writeln!(out, "- Source: {}.", entry.source);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed_and_told_of() {
        let list = text(None).unwrap();
        for entry in entries() {
            assert!(list.contains(&format!("  {}\n", signature(entry))), "{}", entry.name);
            let all = text(Some(entry.name)).unwrap();
            for part in [entry.when, entry.sends, entry.costs, entry.source] {
                assert!(all.contains(part), "{}: {part}", entry.name);
            }
            assert!(page().contains(&format!("\n### {}\n", entry.name)));
        }
        let e = text(Some("two_fase")).unwrap_err().to_string();
        assert_eq!(e, "nothing is called 'two_fase', expected a name that `strategies` lists");
    }
}
