//! All strategies, compressors and topologies, each declared once: what users may write, and what the documents say of it.

use std::fmt;

/// What an [`Entry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// How all train together.
    Strategy,
    /// What a vector looks like on the wire.
    Compressor,
    /// Who mixes with whom.
    Topology,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 3] = [Family::Strategy, Family::Compressor, Family::Topology];

    /// As errors name it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Strategy => "strategy",
            Family::Compressor => "compressor",
            Family::Topology => "topology",
        }
    }
}

/// Something that can be named.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// Which of the three.
    pub family: Family,
    /// As users write it.
    pub name: &'static str,
    /// In their order.
    pub arguments: &'static [Argument],
    /// What it does.
    pub does: &'static str,
    /// When to use it.
    pub when: &'static str,
    /// What a worker sends: of S bytes of gradient or weights, among n workers.
    pub sends: &'static str,
    /// What it costs in accuracy, or its law.
    pub costs: &'static str,
    /// Who it is from.
    pub source: &'static str,
    /// Whether it takes the place of an optimizer with moments, so that it goes with plain SGD alone.
    pub plain_sgd: bool,
}

/// An argument of an [`Entry`].
#[derive(Debug, PartialEq)]
pub struct Argument {
    /// As users write it.
    pub name: &'static str,
    /// What it may be.
    pub domain: Domain,
    /// What it does.
    pub help: &'static str,
}

/// What an argument may be.
#[derive(Debug, PartialEq)]
pub enum Domain {
    /// A whole number.
    Whole {
        /// When not given.
        default: u64,
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
    },
    /// A number.
    Real {
        /// When not given.
        default: f64,
        /// Which are allowed.
        span: Span,
    },
    /// True or false.
    Flag {
        /// When not given.
        default: bool,
    },
    /// One of some words.
    Choice {
        /// When not given.
        default: &'static str,
        /// All of them.
        choices: &'static [&'static str],
    },
    /// Edges of a graph, `0-1/1-2`.
    Edges {
        /// When not given.
        default: &'static str,
    },
    /// Another of these.
    Of {
        /// Which.
        family: Family,
        /// When not given.
        default: &'static str,
    },
}

/// Which numbers are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Above 0, finite.
    Positive,
    /// At least 0, finite.
    NotNegative,
    /// Above 0, at most 1.
    Share,
    /// At least 0, below 1.
    BelowOne,
}

impl Span {
    /// As f32, in which they are used.
    pub(super) fn contains(self, value: f64) -> bool {
        let value = f64::from(value as f32);
        value.is_finite()
            && match self {
                Span::Positive => value > 0.0,
                Span::NotNegative => value >= 0.0,
                Span::Share => value > 0.0 && value <= 1.0,
                Span::BelowOne => (0.0..1.0).contains(&value),
            }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Whole { least, most, .. } => write!(f, "a whole number from {least} to {most}"),
            Domain::Real { span: Span::Positive, .. } => f.write_str("a number above 0"),
            Domain::Real { span: Span::NotNegative, .. } => f.write_str("a number of at least 0"),
            Domain::Real { span: Span::Share, .. } => f.write_str("a number above 0 and at most 1"),
            Domain::Real { span: Span::BelowOne, .. } => f.write_str("a number of at least 0 and below 1"),
            Domain::Flag { .. } => f.write_str("true or false"),
            Domain::Choice { choices, .. } => write!(f, "one of {}", choices.join(", ")),
            Domain::Edges { .. } => f.write_str("edges such as 0-1/1-2"),
            Domain::Of { family, .. } => write!(f, "a {}", family.name()),
        }
    }
}

impl Domain {
    /// What it is when it is not given, as text.
    pub fn default(&self) -> String {
        match self {
            Domain::Whole { default, .. } => default.to_string(),
            Domain::Real { default, .. } => default.to_string(),
            Domain::Flag { default } => default.to_string(),
            Domain::Choice { default, .. } | Domain::Edges { default } | Domain::Of { default, .. } => {
                (*default).to_owned()
            }
        }
    }
}

/// All that there are, in the order of the documents.
pub fn entries() -> &'static [Entry] {
    ENTRIES
}

pub(super) fn entry(family: Family, name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.family == family && entry.name == name)
}

pub(super) fn names(family: Family) -> Vec<&'static str> {
    ENTRIES.iter().filter(|entry| entry.family == family).map(|entry| entry.name).collect()
}

/// The domain of an argument, as the list below writes it.
macro_rules! domain {
    (whole $default:literal from $least:literal to $most:literal) => {
        Domain::Whole { default: $default, least: $least, most: $most }
    };
    (real $default:literal $span:ident) => {
        Domain::Real { default: $default, span: Span::$span }
    };
    (flag $default:literal) => {
        Domain::Flag { default: $default }
    };
    (choice $default:literal of $choices:expr) => {
        Domain::Choice { default: $default, choices: $choices }
    };
    (edges $default:literal) => {
        Domain::Edges { default: $default }
    };
    (compressor $default:literal) => {
        Domain::Of { family: Family::Compressor, default: $default }
    };
    (topology $default:literal) => {
        Domain::Of { family: Family::Topology, default: $default }
    };
}

macro_rules! entries {
    ($($family:ident $name:ident($($argument:ident: [$($domain:tt)*] $help:literal),* $(,)?) $($sgd:ident)? {
        $does:literal; when $when:literal; sends $sends:literal; costs $costs:literal; source $source:literal;
    })*) => {
        const ENTRIES: &[Entry] = &[$(Entry {
            family: Family::$family,
            name: stringify!($name),
            arguments: &[$(Argument {
                name: stringify!($argument),
                domain: domain!($($domain)*),
                help: $help,
            }),*],
            does: $does,
            when: $when,
            sends: $sends,
            costs: $costs,
            source: $source,
            plain_sgd: is_set!($($sgd)?),
        }),*];
    };
}

macro_rules! is_set {
    () => {
        false
    };
    (plain_sgd) => {
        true
    };
}

entries! {
    Strategy sharded() {
        "slices of the gradient are shuffled to their owners, each owner sums its slice and runs the optimizer on it, and the new \
         weights are broadcast";
        when "the default: exact, and the optimizer's state is divided among the workers";
        sends "2·(n−1)/n·S; of tables, the rows that are touched";
        costs "nothing";
        source "Dai et al. 2019, BigDL; ZeRO's first stage, Rajbhandari et al. 2020";
    }
    Strategy all_reduce(
        by: [choice "two_phase" of &["two_phase", "ring", "halving_doubling", "double_binary_tree", "auto"]]
            "the way to sum; auto is for each bucket that which takes the shortest by what messages cost, measured before the \
             first step, and two_phase among threads of one process",
        buckets: [choice "fixed" of &["fixed", "tensors", "merged"]]
            "what travels together: as many bytes as bucket_bytes says; a tensor; or neighbours, from the fifth step on, so that by what \
             those before it took the last of them arrives the soonest. Merged goes with two_phase, halving_doubling and auto",
    ) {
        "the gradient is all-reduced, and each worker updates all weights";
        when "many workers and small networks, where the fewer rounds of halving_doubling or a tree count; a ring where neighbours \
              alone are near; merged where messages are so dear that buckets beside each other \
              do not hide it";
        sends "2·(n−1)/n·S, halving_doubling up to S/2 more where n is no power of two; double_binary_tree about 2·S";
        costs "nothing, and two_phase and halving_doubling give the same bits however buckets are cut; auto may choose otherwise in \
               another run, which changes last bits; the optimizer's state is whole on each worker";
        source "Thakur et al. 2005; Sanders et al. 2009; Zhang et al. 2017, Poseidon; Shi, Chu and Li 2019, MG-WFBP";
    }
    Strategy two_phase(
        to: [compressor "plain"] "on the way to the owners of slices",
        from: [compressor "plain"] "on the way from them",
        feedback: [flag false] "what compression loses is sent later; for contractions",
    ) {
        "as sharded, but sums, not weights, are sent back, both ways compressed, and each worker updates all weights";
        when "links are slower than compression: min_max_u8 (ByteGrad) or fp16 cost little; sign with feedback sends a thirtieth";
        sends "(n−1)·(P(S/n) + Q(S/n)), P and Q the payloads of to and from";
        costs "as the compressor's law; with feedback a contraction converges as plain SGD does, later: coarse ones want sgd without \
               momentum, and a smaller rate";
        source "Gan et al. 2021, BAGUA; Bernstein et al. 2019; Tang et al. 2019, DoubleSqueeze";
    }
    Strategy gather(
        by: [compressor "top_k"] "what each worker's gradient becomes",
        feedback: [flag true] "what compression loses is sent later; for contractions",
    ) {
        "each worker's compressed gradient goes to everyone, who sum";
        when "payloads are shorter than 2·S/n: top_k or threshold with a small share, few workers";
        sends "(n−1)·P(S)";
        costs "as the compressor's law; with feedback as plain SGD, later, and with Adam twice as late";
        source "Aji and Heafield 2017; Stich et al. 2018";
    }
    Strategy linear(
        by: [compressor "random_k"] "whose payloads may be added up undecoded",
        feedback: [flag false] "what compression loses is sent later; for contractions",
    ) {
        "compressed gradients are all-reduced as they are";
        when "many workers and slow links: what is sent does not grow with their number";
        sends "2·(n−1)/n·P(S)";
        costs "the variance of random_k, S/P(S) − 1; with feedback and shrink, as plain SGD, later";
        source "Stich et al. 2018; Wangni et al. 2018";
    }
    Strategy power_sgd(rank: [whole 2 from 1 to 65_535] "of what each matrix becomes") {
        "matrices are summed as products of two thin ones, the rest exactly; what that leaves is sent later";
        when "large matrices and slow links";
        sends "2·(n−1)/n·4·rank·(rows + columns) of a matrix, as of a convolution (outputs, all others)";
        costs "little from rank 2 on, in the paper";
        source "Vogels et al. 2019, PowerSGD";
    }
    Strategy dgc(
        ratio: [real 0.001 Share] "the share of values that is sent",
        momentum: [real 0.9 BelowOne] "how much of its last step a step repeats, on each worker",
        warmup: [whole 0 from 0 to 16_777_216] "steps in which more is sent: 0.25, 0.063, 0.015 and 0.004, each in a quarter of them",
        clip: [real 0.0 NotNegative] "the largest norm of the gradient; 0 clips nothing",
    ) plain_sgd {
        "the largest values of what momentum has summed up go to everyone; the rest is summed up on";
        when "very slow links";
        sends "(n−1)·8·ratio·S/4 at most";
        costs "little with a warm-up, in the paper";
        source "Lin et al. 2018, Deep Gradient Compression";
    }
    Strategy ok_top_k(ratio: [real 0.01 Share] "about the share of values that is sent") {
        "about the largest values go to the owners of their regions, and the largest sums to everyone; the rest is sent later";
        when "gather(top_k) with more than a few workers: what is sent does not grow with their number";
        sends "about 16·ratio·S/4·(n−1)/n; every 32 steps 8·ratio·S/4·(n−1) at most";
        costs "as gather(top_k)";
        source "Li and Hoefler 2022, Ok-Topk";
    }
    Strategy g_top_k(ratio: [real 0.01 Share] "the share of values that is sent") {
        "the largest values are merged up a tree, and what is left of them goes down; the rest is sent later";
        when "many workers: what is sent grows with the logarithm of their number";
        sends "8·ratio·S/4·2·log₂n at the root, less elsewhere";
        costs "as gather(top_k), later: what is large only in sum may wait";
        source "Shi et al. 2019, gTop-k, whose lost values are kept here";
    }
    Strategy fetch_sgd(
        rows: [whole 5 from 1 to 64] "of the sketch",
        columns: [whole 10_000 from 1 to 16_777_216] "of the sketch of a bucket; rows × columns are at most 16,777,216",
        ratio: [real 0.01 Share] "the share of values that a step changes",
        momentum: [real 0.9 BelowOne] "how much of its last step a step repeats, within the sketch",
    ) plain_sgd {
        "sketches of the gradient are summed, and keep momentum and what has not been sent";
        when "few of many values matter; all workers send the same, however long the gradient";
        sends "2·(n−1)/n·4·rows·columns a bucket";
        costs "what shares a cell with a large value is forgotten with it";
        source "Rothchild et al. 2020, FetchSGD";
    }
    Strategy one_bit_adam(
        warmup: [whole 1_000 from 1 to 16_777_216] "steps of Adam as it is, 15 to 25 percent of all",
        beta1: [real 0.9 BelowOne] "decay of the mean gradient",
        beta2: [real 0.999 BelowOne] "decay of the mean squared gradient",
        epsilon: [real 1e-8 NotNegative] "keeps from dividing by zero",
    ) plain_sgd {
        "Adam whose first moment is summed by signs, with feedback, once the second has settled";
        when "Adam over slow links";
        sends "2·(n−1)/n·S in the warm-up, then a thirty-second of it";
        costs "little where the second moment has settled; weights whose gradient was 0 all through the warm-up stay where they are";
        source "Tang et al. 2021, 1-bit Adam, with its bias corrections frozen with the variance";
    }
    Strategy qadam(
        warmup: [whole 1_000 from 1 to 16_777_216] "steps of Adam as it is, about 20 percent of all",
        beta1: [real 0.9 BelowOne] "decay of the mean gradient",
        beta2: [real 0.999 BelowOne] "decay of the mean squared gradient",
        epsilon: [real 1e-8 NotNegative] "keeps from dividing by zero",
    ) plain_sgd {
        "Adam whose first moment is summed by bytes once the second has settled";
        when "Adam over slow links";
        sends "2·(n−1)/n·S in the warm-up, then a quarter of it";
        costs "little where the second moment has settled; weights whose gradient was 0 all through the warm-up stay where they are";
        source "Gan et al. 2021, BAGUA, with its bias corrections frozen with the variance";
    }
    Strategy s2(
        rows: [whole 1 from 1 to 64] "of the sketch; more of them for rows of tables that are mostly 0",
        ratio: [real 0.25 Share] "cells of the sketch by values of a table",
        feedback: [flag false] "what a sketch loses is sent when its rows are touched again; with one row",
    ) {
        "all-reduce, and of embedding tables first which rows are touched, then those as a sketch, or as they are where that is shorter";
        when "tables whose touched rows are more than ratio of them, mostly of zeros";
        sends "of a table 2·(n−1)/n·(⌈rows/8⌉ + 4·the fewer of cells and values touched)";
        costs "nothing where rows are sent as they are; a sketch shorter than what it holds is mostly noise";
        source "Ge et al. 2021, S2 Reducer";
    }
    Strategy union() {
        "all-reduce, and of embedding tables first which rows are touched, then those";
        when "workers touch mostly the same rows";
        sends "of a table 2·(n−1)/n·(⌈rows/8⌉ + 4·values touched by any)";
        costs "nothing; the optimizer's state of tables is whole on each worker";
        source "Fei et al. 2021, OmniReduce";
    }
    Strategy sparse_gather() {
        "all-reduce, and of embedding tables each worker's touched rows to everyone";
        when "two workers, or few rows";
        sends "of a table (n−1)·(4 + 4·width)·rows touched by it";
        costs "nothing; the optimizer's state of tables is whole on each worker";
        source "the baseline of many";
    }
    Strategy densify() {
        "all-reduce, of embedding tables too, whole";
        when "to compare";
        sends "of a table 2·(n−1)/n of all of it";
        costs "nothing; the optimizer's state of tables is whole on each worker";
        source "the baseline of many";
    }
    Strategy parallax() {
        "all-reduce, and of embedding tables each worker's touched rows to one worker, which sums and sends them to everyone";
        when "to compare";
        sends "of a table its touched rows; the one worker the sums n − 1 times";
        costs "nothing; the optimizer's state of tables is whole on each worker";
        source "Kim et al. 2019, Parallax";
    }
    Strategy local(every: [whole 8 from 1 to 1_000_000] "steps between means") {
        "each worker makes steps of its own; in every so many all take the mean of their weights";
        when "links are slow and rows are spread evenly: sends a fraction 1/every";
        sends "2·(n−1)/n·S/every, tables whole";
        costs "nothing for 1 and plain SGD where all have as many rows of a batch; for more the steps of a round go apart, the more so \
               the more data differ";
        source "McDonald et al. 2010; Stich 2019";
    }
    Strategy post_local(
        every: [whole 16 from 1 to 1_000_000] "steps between means",
        after: [whole 1_000 from 0 to 16_777_216] "steps before that, after each of which all take the mean",
    ) {
        "as local, once so many steps have been made";
        when "local loses accuracy early, or large batches generalise badly";
        sends "2·(n−1)/n·S, then by every";
        costs "less than local; the first steps are those of sharded for plain SGD where all have as many rows of a batch";
        source "Lin et al. 2020, Don't Use Large Mini-Batches, Use Local SGD";
    }
    Strategy hierarchical(
        every: [whole 32 from 1 to 1_000_000] "steps between means of all",
        group: [whole 2 from 1 to 100_000] "neighbouring ranks that meet more often",
        inner: [whole 4 from 1 to 1_000_000] "steps between their means",
    ) {
        "as local, with means of neighbouring ranks in between";
        when "some workers share a host, or a fast network";
        sends "2·(n−1)/n·S/every, and within groups of g 2·(g−1)/g·S/inner";
        costs "less than local by the same steps between means of all";
        source "Lin et al. 2020, Don't Use Large Mini-Batches, Use Local SGD";
    }
    Strategy slow_mo(
        every: [whole 48 from 1 to 1_000_000] "steps between means",
        beta: [real 0.5 BelowOne] "how much of its last step an outer step repeats",
        alpha: [real 1.0 Positive] "the size of an outer step",
    ) {
        "as local, and a momentum over the means";
        when "local loses accuracy: it wins some back for two more vectors on each worker";
        sends "2·(n−1)/n·S/every, tables whole";
        costs "less than local";
        source "Wang et al. 2020, SlowMo";
    }
    Strategy easgd(
        every: [whole 10 from 1 to 1_000_000] "steps between pulls",
        pull: [real 0.9 Share] "how far all workers together are pulled to the center and it to them",
    ) {
        "each worker makes steps of its own, tied by an elastic to a center that follows their mean";
        when "workers shall explore apart; an epoch ends with the center";
        sends "2·(n−1)/n·S/every, tables whole";
        costs "the center lags behind the workers, most at first";
        source "Zhang et al. 2015, Deep learning with Elastic Averaging SGD";
    }
    Strategy async_average(every: [whole 16 from 1 to 1_000_000] "steps between the beginnings of means") {
        "as local, but workers go on while the mean is taken, and add what it differs a round later";
        when "as local, where a mean takes long";
        sends "2·(n−1)/n·S/every, tables whole, while the next steps are computed";
        costs "more than local by the same steps: a mean is a round old";
        source "Gan et al. 2021, BAGUA's asynchronous model average, by steps and not by a clock";
    }
    Strategy timed_average(milliseconds: [whole 500 from 1 to 86_400_000] "between the beginnings of means, by each worker's clock") {
        "as async_average, by a clock: whoever is slower makes fewer steps between two means, and holds nobody up before an epoch ends";
        when "as async_average, where workers are of different speed";
        sends "2·(n−1)/n·S in so many milliseconds, tables whole, while steps are computed";
        costs "as async_average; results differ from run to run; workers end an epoch within five minutes of each other";
        source "Gan et al. 2021, BAGUA's asynchronous model average";
    }
    Strategy ssp(
        staleness: [whole 3 from 0 to 1_000_000] "steps that a worker may be ahead of the slowest gradient that it has not seen",
        every: [whole 1 from 1 to 1_000_000] "steps whose gradients travel together",
    ) {
        "owners of slices update with the gradients that have come; a worker waits for the slowest only when it is too far ahead";
        when "workers are slow by turns; networks without embedding tables";
        sends "(n−1)/n·S and as much or twice as much back, by every";
        costs "gradients of old weights, by staleness steps at most where every is 1, else by as many rounded up to pushes and one more; \
               what arrives apart is a step of its own for optimizers with moments; results differ from run to run; 0 is sharded";
        source "Ho et al. 2013, Stale Synchronous Parallel Parameter Server";
    }
    Strategy asp(every: [whole 1 from 1 to 1_000_000] "steps whose gradients travel together") {
        "as ssp without a bound: nobody waits before an epoch ends";
        when "some workers are always slower; networks without embedding tables";
        sends "(n−1)/n·S and as much back, by every";
        costs "gradients of weights of any age: take sgd and a smaller learning rate, as what arrives apart is a step of its own for \
               optimizers with moments; results differ from run to run";
        source "Recht et al. 2011, Hogwild";
    }
    Strategy downpour(
        push: [whole 5 from 1 to 1_000_000] "steps whose gradients travel together",
        fetch: [whole 5 from 1 to 1_000_000] "steps after which a worker takes the owners' weights",
    ) {
        "as asp, but a worker makes steps of plain SGD on weights of its own until it takes those of the owners";
        when "as asp, where a message a step is too many";
        sends "(n−1)/n·S and as much back, by push";
        costs "as asp; workers drift apart for fetch steps";
        source "Dean et al. 2012, DOWNPOUR";
    }
    Strategy dpsgd(
        topology: [topology "ring"] "who mixes with whom",
        order: [choice "update_mix" of &["update_mix", "mix_update"]] "what comes first",
    ) {
        "each worker updates by its own gradient and takes a mean with its neighbours, step by step";
        when "one slow link would hold all up: a worker waits for its neighbours alone";
        sends "S to each neighbour";
        costs "a bias of the order of the learning rate where data differ, the more the sparser the topology";
        source "Lian et al. 2017; by mix_update as BAGUA's decentralized";
    }
    Strategy d2(topology: [topology "ring"] "who mixes with whom; symmetric") {
        "as dpsgd, with a correction by the step before";
        when "workers have different data";
        sends "S to each neighbour";
        costs "no bias of different data; a vector more of memory";
        source "Tang et al. 2018, D²; Yuan et al. 2019, exact diffusion";
    }
    Strategy gradient_tracking(topology: [topology "ring"] "who mixes with whom") {
        "each worker follows the mean of all gradients by mixing what it knows of it";
        when "workers have different data, also over directed topologies";
        sends "2·S to each neighbour";
        costs "no bias of different data; two vectors more of memory";
        source "Pu and Nedić 2021; Xin and Khan 2018";
    }
    Strategy push_sum(topology: [topology "exponential"] "who gives to whom") {
        "each worker gives shares of its weights away, and of a mass by which they are divided";
        when "over directed topologies, as exponential or one_peer";
        sends "S and 4 bytes to each that hears it";
        costs "as dpsgd";
        source "Assran et al. 2019, Stochastic Gradient Push";
    }
    Strategy choco(
        topology: [topology "ring"] "who mixes with whom; symmetric, the same in each step",
        by: [compressor "top_k(ratio=0.1)"] "a contraction",
        gamma: [real 0.2 Share] "how far a worker goes to its neighbours; the coarser the compressor, the smaller",
    ) {
        "as dpsgd, with compressed differences to what neighbours know";
        when "dpsgd over slow links";
        sends "P(S) to each neighbour";
        costs "as dpsgd for a gamma that is small enough; diverges for one that is not";
        source "Koloskova et al. 2019, CHOCO-SGD";
    }
    Strategy dcd(
        topology: [topology "ring"] "who mixes with whom; symmetric, the same in each step",
        by: [compressor "min_max_u8"] "a mild one",
    ) {
        "as dpsgd, where all hold the same copy of each, moved by compressed differences";
        when "dpsgd over slow links, by quantizers of 8 bits or more";
        sends "P(S) to each neighbour";
        costs "as dpsgd; diverges for coarse compressors, which are refused";
        source "Tang et al. 2018, Communication Compression for Decentralized Training; BAGUA's low-precision ring";
    }
    Strategy quasi_global(
        topology: [topology "ring"] "who mixes with whom",
        momentum: [real 0.9 BelowOne] "how much of the way of all a step repeats",
        keep: [real 0.9 BelowOne] "how slowly that way changes",
        nesterov: [flag true] "whether a step looks ahead along it",
    ) plain_sgd {
        "as dpsgd by update_mix, with a momentum along the way that the weights went after mixing";
        when "workers have different data, and momentum is wanted";
        sends "S to each neighbour; the momentum stays";
        costs "less than dpsgd with local momentum where data differ";
        source "Lin et al. 2021, Quasi-Global Momentum";
    }
    Strategy quasi_global_adam(
        topology: [topology "ring"] "who mixes with whom",
        beta1: [real 0.9 BelowOne] "decay of the first moment",
        beta2: [real 0.999 BelowOne] "decay of the second moment",
        epsilon: [real 1e-8 Positive] "added to the root of the second moment",
        first: [choice "local" of &["local", "global"]]
            "whose way the first moment follows: this worker's gradients, as in the authors' code, or that of all, as in the paper",
    ) plain_sgd {
        "Adam as dpsgd by update_mix, with a second moment along the way that the weights went after mixing, by its length";
        when "workers have different data, and Adam is wanted";
        sends "S to each neighbour; the moments stay";
        costs "a bias where data differ, smaller than that of Adam by each worker alone; the first moment of all has a larger one. \
               Rows of embedding tables that are seldom touched have next to no second moment, and their steps may diverge: take \
               quasi_global there";
        source "Lin et al. 2021, Quasi-Global Momentum";
    }

    Compressor plain() {
        "values as they are";
        when "nothing is to be lost";
        sends "4 bytes a value";
        costs "exact";
        source "—";
    }
    Compressor fp16() {
        "half floats";
        when "gradients within 6·10⁻⁸ to 65,504";
        sends "2 bytes a value";
        costs "relative error 2⁻¹¹; what is smaller than 6·10⁻⁸ is lost";
        source "Micikevicius et al. 2018";
    }
    Compressor bf16() {
        "the upper half of a float";
        when "gradients of any size";
        sends "2 bytes a value";
        costs "contraction, δ = 1 − 2⁻¹⁶";
        source "Kalamkar et al. 2019";
    }
    Compressor min_max_u8() {
        "255 even levels between the least and the greatest";
        when "values of one size: ByteGrad";
        sends "1 byte a value and 32";
        costs "half a level";
        source "Gan et al. 2021, BAGUA";
    }
    Compressor qsgd(
        levels: [whole 15 from 1 to 32_767] "of a bucket's norm",
        bucket: [whole 512 from 1 to 4_294_967_295] "values that share a norm",
    ) {
        "levels of a bucket's norm, drawn so that the mean is right";
        when "unbiased quantization of 2 to 16 bits";
        sends "log₂(2·levels + 1) bits a value, and 4 bytes a bucket";
        costs "unbiased, ω = min(bucket/levels², √bucket/levels)";
        source "Alistarh et al. 2017, QSGD";
    }
    Compressor tern_grad(clip: [real 2.5 NotNegative] "in deviations; 0 clips nothing") {
        "0 and both signs of the largest";
        when "2 bits a value, unbiased but for what is clipped";
        sends "2 bits a value and 4 bytes";
        costs "unbiased without clip";
        source "Wen et al. 2017, TernGrad";
    }
    Compressor natural() {
        "powers of two, drawn so that the mean is right";
        when "9 bits a value with a variance of 1/8";
        sends "9 bits a value";
        costs "unbiased, ω = 1/8";
        source "Horváth et al. 2019";
    }
    Compressor sign() {
        "signs, times the mean magnitude";
        when "1 bit a value, with feedback";
        sends "1 bit a value and 4 bytes";
        costs "contraction, δ = ‖x‖₁²/(d·‖x‖₂²)";
        source "Karimireddy et al. 2019, EF-signSGD";
    }
    Compressor sign_vote() {
        "signs alone: by two_phase both ways a majority vote";
        when "signSGD; the learning rate is the size of every step";
        sends "1 bit a value";
        costs "another method than SGD";
        source "Bernstein et al. 2019";
    }
    Compressor one_bit() {
        "1 bit, and the means of what it says";
        when "1 bit a value, with feedback";
        sends "1 bit a value and 8 bytes";
        costs "contraction";
        source "Seide et al. 2014";
    }
    Compressor top_k(
        ratio: [real 0.01 Share] "the share of values that is kept",
        indices: [choice "shortest" of &["shortest", "fixed"]] "whether indices are coded by what is shortest, or always alike",
    ) {
        "the largest values";
        when "with feedback, by gather";
        sends "4 to 8 bytes a value that is kept";
        costs "contraction, δ = ratio";
        source "Aji and Heafield 2017";
    }
    Compressor random_k(ratio: [real 0.1 Share] "the share of values that is kept") {
        "values at places that all draw alike, scaled so that the mean is right";
        when "by linear; with feedback as shrink(random_k)";
        sends "4 bytes a value that is kept";
        costs "unbiased, ω = 1/ratio − 1";
        source "Stich et al. 2018";
    }
    Compressor threshold(
        at: [real 0.01 NotNegative] "the least magnitude that is kept",
        indices: [choice "shortest" of &["shortest", "fixed"]] "as of top_k",
    ) {
        "values of a magnitude above a threshold";
        when "the size of gradients is known";
        sends "4 to 8 bytes a value that is kept";
        costs "biased; no value is off by more than the threshold";
        source "Strom 2015";
    }
    Compressor sketch_ml(bins: [whole 64 from 2 to 255] "quantiles of the values") {
        "which values are not 0, exactly, and a quantile's mean for each";
        when "gradients that are sparse by nature, with feedback";
        sends "1 to 5 bytes a value that is not 0, and the bins";
        costs "a contraction";
        source "Jiang et al. 2018, SketchML";
    }
    Compressor shrink(of: [compressor "qsgd"] "an unbiased one") {
        "what is unbiased times 1/(1 + ω), so that feedback converges";
        when "with feedback around qsgd, tern_grad, natural or random_k";
        sends "as of";
        costs "contraction, δ = 1/(1 + ω)";
        source "Koloskova et al. 2019";
    }

    Topology ring() {
        "each with the one before and the one behind";
        when "few links";
        sends "to 2";
        costs "workers agree slowly: a gap of 0.195 for 8, 0.013 for 32";
        source "Lian et al. 2017";
    }
    Topology complete() {
        "each with all";
        when "few workers";
        sends "to n − 1";
        costs "all agree in each step";
        source "—";
    }
    Topology torus(rows: [whole 2 from 1 to 100_000] "of a grid whose ends meet; divides the workers") {
        "each with four neighbours in a grid";
        when "workers in a grid";
        sends "to 4";
        costs "a gap of 0.4 for 4 × 4";
        source "—";
    }
    Topology exponential() {
        "each hears those 1, 2, 4 and so on before it; directed";
        when "many workers";
        sends "to ⌈log₂n⌉";
        costs "a gap of 2/(⌈log₂n⌉ + 1)";
        source "Ying et al. 2021";
    }
    Topology one_peer() {
        "the same, one of them a step; directed";
        when "a power of two of workers, which agree after log₂n steps";
        sends "to 1";
        costs "others never agree exactly";
        source "Ying et al. 2021";
    }
    Topology shift_one() {
        "one partner a step, of the other half; an even number of workers";
        when "one message a step, both ways";
        sends "to 1";
        costs "workers agree slowly: 0.35 is left of a difference after a round of 8";
        source "Gan et al. 2021, BAGUA";
    }
    Topology davis() {
        "who met whom in Davis' Southern Women; 32 workers";
        when "an experiment shall be repeated";
        sends "to 2 to 14";
        costs "a gap of 0.082";
        source "Davis et al. 1941; Lin et al. 2021";
    }
    Topology graph(edges: [edges "0-1"] "pairs of ranks, each once") {
        "any graph without direction, by weights of Metropolis and Hastings";
        when "the network's own shape is known";
        sends "to each neighbour";
        costs "as its gap";
        source "Xiao and Boyd 2004";
    }
}
