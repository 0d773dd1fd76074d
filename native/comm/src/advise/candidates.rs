//! What is tried.

use super::{Change, Job};

/// A strategy with sensible arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// As users write it.
    pub(super) text: &'static str,
    /// What is tried in its place, where it begins otherwise than it goes on.
    pub(super) tried: &'static str,
    /// How many steps are like so many others, taken together.
    pub(super) steps: u64,
    pub(super) change: Change,
}

const fn plain(text: &'static str, steps: u64, change: Change) -> Candidate {
    Candidate { text, tried: text, steps, change }
}

const fn settled(text: &'static str, tried: &'static str) -> Candidate {
    Candidate { text, tried, steps: SOME, change: Change::Gradients }
}

/// Steps of those of which all are alike.
const SOME: u64 = 3;

const ALL: [Candidate; 26] = [
    plain("sharded", SOME, Change::Nothing),
    plain("all_reduce", SOME, Change::Nothing),
    plain("all_reduce(ring)", SOME, Change::Nothing),
    plain("all_reduce(halving_doubling)", SOME, Change::Nothing),
    plain("two_phase(bf16, bf16)", SOME, Change::Gradients),
    plain("two_phase(min_max_u8, min_max_u8)", SOME, Change::Gradients),
    plain("two_phase(qsgd(levels=7), qsgd(levels=7))", SOME, Change::Gradients),
    plain("two_phase(sign, sign, feedback=true)", SOME, Change::Gradients),
    plain("gather(top_k(ratio=0.01))", SOME, Change::Gradients),
    plain("linear(shrink(random_k(ratio=0.1)), feedback=true)", SOME, Change::Gradients),
    plain("dgc(ratio=0.01)", SOME, Change::Gradients),
    // Every 32 steps it counts exactly.
    plain("ok_top_k(ratio=0.01)", 32, Change::Gradients),
    plain("g_top_k(ratio=0.01)", SOME, Change::Gradients),
    settled("one_bit_adam", "one_bit_adam(warmup=1)"),
    settled("qadam", "qadam(warmup=1)"),
    plain("local(every=8)", 8, Change::Steps),
    plain("local(every=32)", 32, Change::Steps),
    plain("hierarchical(every=16, group=2, inner=4)", 16, Change::Steps),
    plain("slow_mo(every=16)", 16, Change::Steps),
    plain("easgd(every=10)", 10, Change::Steps),
    plain("async_average(every=16)", 16, Change::Steps),
    plain("dpsgd(ring)", SOME, Change::Agreement),
    plain("dpsgd(one_peer)", SOME, Change::Agreement),
    plain("push_sum(exponential)", SOME, Change::Agreement),
    plain("choco(ring, top_k(ratio=0.1))", SOME, Change::Agreement),
    plain("dcd(ring, min_max_u8)", SOME, Change::Agreement),
];

/// Those of jobs with tables.
const OF_TABLES: [Candidate; 2] =
    [plain("union", SOME, Change::Nothing), plain("sparse_gather", SOME, Change::Nothing)];

/// Those that differ for a job; who is alone has no choice.
pub(super) fn of(job: &Job) -> Vec<Candidate> {
    let of_tables = if job.tables.is_empty() { &[][..] } else { &OF_TABLES };
    let most = if job.workers == 1 { 1 } else { usize::MAX };
    ALL.iter().chain(of_tables).copied().take(most).collect()
}
