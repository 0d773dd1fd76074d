//! What a [`Spec`] names, made.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use firesteel_error::{Error, Result};

use super::catalogue::Family;
use super::sharded::cut;
use super::spec::edges;
use super::tuning::Tuning;
use super::{Layout, Local, Make, Mixing, Outer, Replicated, Sharded, Spec, Stale, Strategy};
use crate::collective::Algorithm;
use crate::compress::{
    Bf16, Compressor, Fp16, Indices, MinMaxU8, Natural, OneBit, Plain, Qsgd, RandomK, Shrink, Sign, SignVote,
    SketchMl, TernGrad, Threshold, TopK,
};
use crate::fabric::Fabric;
use crate::gossip::{
    Choco, D2, Dcd, Dpsgd, FirstMoment, Gossip, Order, PushSum, QuasiGlobal, QuasiGlobalAdam,
    QuasiGlobalAdamConfig, Tracking,
};
use crate::reduce::{
    AdamConfig, AllReduce, Dgc, Feedback, FetchSgd, GTopK, Gather, LinearSum, OkTopK, OneBitAdam, PowerSgd,
    QAdam, Reduce, State, TwoPhase,
};
use crate::sparse::{self, SumRows};
use crate::topology::Topology;

impl Spec {
    /// Makes the strategy for a network. A worker that is alone trains as it would without any: it has nobody to talk to.
    ///
    /// # Errors
    /// `InvalidArgument` naming what does not go together, or with the world; `Io` without threads.
    pub fn build(&self, fabric: Arc<dyn Fabric>, layout: &Layout, seed: u64) -> Result<Box<dyn Strategy>> {
        self.check(fabric.world())?;
        match fabric.world() {
            1 => Ok(Box::new(Sharded::new(fabric, layout)?)),
            _ => self.make(fabric, layout, seed).map_err(|e| self.named(e)),
        }
    }

    fn make(&self, fabric: Arc<dyn Fabric>, layout: &Layout, seed: u64) -> Result<Box<dyn Strategy>> {
        let replicated = |make: &Make<'_>| {
            Replicated::new(fabric.clone(), layout, cut(layout)?, make).map(|made| Box::new(made) as _)
        };
        let local = |outer| Local::new(fabric.clone(), layout, self.whole("every")?, outer);
        match self.name() {
            "sharded" => Ok(Box::new(Sharded::new(fabric, layout)?)),
            "local" => Ok(Box::new(local(Outer::Mean)?)),
            "hierarchical" => {
                let group = whole(self, "group")?;
                Ok(Box::new(local(Outer::Mean)?.in_groups(group, self.whole("inner")?)?))
            }
            "slow_mo" => {
                let [beta, alpha] = [self.real("beta")? as f32, self.real("alpha")? as f32];
                Ok(Box::new(local(Outer::SlowMo { beta, alpha })?))
            }
            "async_average" => Ok(Box::new(local(Outer::Late)?)),
            "ssp" => {
                let staleness = Some(self.whole("staleness")?);
                Ok(Box::new(Stale::new(fabric, layout, staleness, self.whole("every")?)?))
            }
            "asp" => Ok(Box::new(Stale::new(fabric, layout, None, self.whole("every")?)?)),
            "timed_average" => {
                let every = Duration::from_millis(self.whole("milliseconds")?);
                Ok(Box::new(Local::new(fabric, layout, 1, Outer::Mean)?.timed(every)?))
            }
            "downpour" => {
                let stale = Stale::new(fabric, layout, None, self.whole("push")?)?;
                Ok(Box::new(stale.fetching(self.whole("fetch")?)?))
            }
            "post_local" => Ok(Box::new(local(Outer::Mean)?.after(self.whole("after")?))),
            "all_reduce" => self.all_reduce(fabric, layout),
            "power_sgd" => {
                let rank = whole(self, "rank")?;
                let make = |range: &Range<usize>| match matrix(layout, range).filter(|m| thin(rank, *m)) {
                    Some(shape) => PowerSgd::new(rank, shape, seed).map(|made| Box::new(made) as _),
                    None => Ok(Box::new(AllReduce::new(Algorithm::TwoPhase)) as _),
                };
                let buckets = by_matrix(layout, |shape| thin(rank, shape));
                Ok(Box::new(Replicated::new(fabric, layout, buckets, &make)?))
            }
            "s2" | "union" | "sparse_gather" | "densify" | "parallax" => {
                let exact = |_: &Range<usize>| Ok(Box::new(AllReduce::new(Algorithm::TwoPhase)) as _);
                let made = Replicated::new(fabric, layout, cut(layout)?, &exact)?;
                Ok(Box::new(made.with_rows(layout, &|| self.rows(seed))?))
            }
            "easgd" => Ok(Box::new(local(Outer::Elastic { pull: self.real("pull")? as f32 })?)),
            _ => match self.gossip(seed)? {
                Some(gossip) => Ok(Box::new(Mixing::new(fabric, layout, gossip)?)),
                None => replicated(&|_| self.reduce(seed)),
            },
        }
    }

    /// Of what is measured first, sums in two phases until it is.
    fn all_reduce(&self, fabric: Arc<dyn Fabric>, layout: &Layout) -> Result<Box<dyn Strategy>> {
        let (algorithm, merges) = (self.algorithm()?, self.word("buckets")? == "merged");
        let buckets = if self.word("buckets")? == "tensors" { by_tensor(layout) } else { cut(layout)? };
        let first = AllReduce::new(algorithm.unwrap_or(Algorithm::TwoPhase));
        let made = Replicated::new(fabric, layout, buckets, &|_| Ok(Box::new(first)))?;
        Ok(Box::new(made.tuned(Tuning::new(algorithm, merges))))
    }

    /// The one that is asked for; none where links are to choose.
    fn algorithm(&self) -> Result<Option<Algorithm>> {
        Ok(match self.word("by")? {
            "auto" => None,
            "ring" => Some(Algorithm::Ring),
            "halving_doubling" => Some(Algorithm::HalvingDoubling),
            "double_binary_tree" => Some(Algorithm::DoubleBinaryTree),
            _ => Some(Algorithm::TwoPhase),
        })
    }

    /// Lets what it has built go on from the states that all workers had, as [`Strategy::resume`].
    ///
    /// # Errors
    /// `Corrupt` naming the strategy, what was found and expected, for states of another one or of another network.
    pub fn resume(&self, built: &mut dyn Strategy, states: &[State]) -> Result<()> {
        built.resume(states).map_err(|e| self.named(e))
    }

    /// Refuses what cannot be made for a world of this size, whatever the network.
    ///
    /// # Errors
    /// `InvalidArgument` naming what does not go together, or with the world.
    pub fn check(&self, world: usize) -> Result<()> {
        self.check_parts(world).map_err(|e| self.named(e))
    }

    fn named(&self, e: Error) -> Error {
        e.context(format!("the strategy {self}"))
    }

    fn check_parts(&self, world: usize) -> Result<()> {
        match self.name() {
            "sharded" | "local" | "post_local" | "slow_mo" | "easgd" | "async_average" | "ssp" | "asp"
            | "downpour" | "timed_average" | "power_sgd" => Ok(()),
            "s2" | "union" | "sparse_gather" | "densify" | "parallax" => self.rows(0).map(drop),
            "all_reduce" => match (self.word("buckets")?, self.word("by")?) {
                ("merged", by @ ("ring" | "double_binary_tree")) => Err(Error::argument(format!(
                    "merged buckets, which the clock cuts, by {by}, whose sums depend on where a vector is cut; expected two_phase, \
                     halving_doubling or auto"
                ))),
                _ => Ok(()),
            },
            "hierarchical" => {
                let [group, every, inner] = ["group", "every", "inner"].map(|name| self.whole(name));
                let (group, every, inner) = (group?, every?, inner?);
                if !every.is_multiple_of(inner) {
                    let what =
                        format!("inner is {inner}, expected a number that divides every, which is {every}");
                    return Err(Error::argument(what));
                }
                if world > 1 && !(world as u64).is_multiple_of(group) {
                    let what =
                        format!("group is {group}, expected a number that divides the {world} workers");
                    return Err(Error::argument(what));
                }
                Ok(())
            }
            _ => match self.gossip(0)? {
                Some(gossip) if world > 1 => gossip.check(world),
                Some(_) => Ok(()),
                None => self.reduce(0).map(drop),
            },
        }
    }

    /// The sum of a table's rows.
    fn rows(&self, seed: u64) -> Result<Box<dyn SumRows>> {
        Ok(match self.name() {
            "s2" => {
                Box::new(sparse::S2::new(whole(self, "rows")?, self.real("ratio")?, self.feedback()?, seed)?)
            }
            "union" => Box::new(sparse::Union),
            "sparse_gather" => Box::new(sparse::Gather),
            "densify" => Box::new(sparse::Dense),
            _ => Box::new(sparse::Parallax),
        })
    }

    fn feedback(&self) -> Result<Feedback> {
        Ok(if self.flag("feedback")? { Feedback::On } else { Feedback::Off })
    }

    fn adam(&self) -> Result<AdamConfig> {
        Ok(AdamConfig {
            beta1: self.real("beta1")?,
            beta2: self.real("beta2")?,
            epsilon: self.real("epsilon")? as f32,
            warmup: self.whole("warmup")?,
        })
    }

    /// The reduction of a bucket.
    fn reduce(&self, seed: u64) -> Result<Box<dyn Reduce>> {
        Ok(match self.name() {
            "two_phase" => {
                let [to, from] = ["to", "from"].map(|name| self.of(name).and_then(Spec::compressor));
                Box::new(TwoPhase::new(to?, from?, self.feedback()?, seed)?)
            }
            "gather" => Box::new(Gather::new(self.of("by")?.compressor()?, self.feedback()?, seed)?),
            "linear" => Box::new(LinearSum::new(self.of("by")?.compressor()?, self.feedback()?, seed)?),
            "dgc" => {
                let (momentum, clip) = (self.real("momentum")? as f32, self.real("clip")? as f32);
                let clip = (clip > 0.0).then_some(clip);
                let warmup = self.whole("warmup")?;
                Box::new(Dgc::new(self.real("ratio")?, momentum, clip, warmup, Indices::Shortest)?)
            }
            "ok_top_k" => Box::new(OkTopK::new(self.real("ratio")?, Indices::Shortest)?),
            "g_top_k" => Box::new(GTopK::new(self.real("ratio")?, Indices::Shortest)?),
            "fetch_sgd" => {
                let shape @ [rows, columns] = [whole(self, "rows")?, whole(self, "columns")?];
                if rows.saturating_mul(columns) > MOST_CELLS {
                    let what = format!("a sketch of {rows} × {columns}, expected at most {MOST_CELLS} cells");
                    return Err(Error::argument(what));
                }
                Box::new(FetchSgd::new(shape, self.real("ratio")?, self.real("momentum")? as f32, seed)?)
            }
            "one_bit_adam" => Box::new(OneBitAdam::new(self.adam()?)?),
            "qadam" => Box::new(QAdam::new(self.adam()?)?),
            other => return Err(unknown(Family::Strategy, other)),
        })
    }

    fn gossip(&self, seed: u64) -> Result<Option<Box<dyn Gossip>>> {
        let topology = || self.of("topology").and_then(Spec::topology);
        let by = || self.of("by").and_then(Spec::compressor);
        Ok(Some(match self.name() {
            "dpsgd" => Box::new(Dpsgd::new(
                topology()?,
                match self.word("order")? {
                    "mix_update" => Order::MixThenUpdate,
                    _ => Order::UpdateThenMix,
                },
            )),
            "d2" => Box::new(D2::new(topology()?)?),
            "gradient_tracking" => Box::new(Tracking::new(topology()?)),
            "push_sum" => Box::new(PushSum::new(topology()?)),
            "choco" => Box::new(Choco::new(topology()?, by()?, self.real("gamma")? as f32, seed)?),
            "dcd" => Box::new(Dcd::new(topology()?, by()?, seed)?),
            "quasi_global" => {
                let [momentum, keep] = [self.real("momentum")? as f32, self.real("keep")? as f32];
                Box::new(QuasiGlobal::new(topology()?, momentum, keep, self.flag("nesterov")?)?)
            }
            "quasi_global_adam" => {
                let config = QuasiGlobalAdamConfig {
                    beta1: self.real("beta1")?,
                    beta2: self.real("beta2")?,
                    epsilon: self.real("epsilon")? as f32,
                    first: match self.word("first")? {
                        "global" => FirstMoment::Global,
                        _ => FirstMoment::Local,
                    },
                };
                Box::new(QuasiGlobalAdam::new(topology()?, config)?)
            }
            _ => return Ok(None),
        }))
    }

    /// The compressors among its arguments, with their names; of one that shrinks another the other's.
    ///
    /// # Errors
    /// `InvalidArgument` for one that cannot be made.
    pub(crate) fn compressors(&self) -> Result<Vec<(&'static str, Box<dyn Compressor>)>> {
        let compressors = self.specs().filter(|spec| spec.entry().family == Family::Compressor);
        let named = |spec: &Spec| {
            let name = if spec.name() == "shrink" { spec.of("of")?.name() } else { spec.name() };
            Ok((name, spec.compressor()?))
        };
        compressors.map(named).collect()
    }

    fn compressor(&self) -> Result<Box<dyn Compressor>> {
        let indices = || {
            Ok::<_, Error>(match self.word("indices")? {
                "fixed" => Indices::Fixed,
                _ => Indices::Shortest,
            })
        };
        Ok(match self.name() {
            "plain" => Box::new(Plain),
            "fp16" => Box::new(Fp16),
            "bf16" => Box::new(Bf16),
            "min_max_u8" => Box::new(MinMaxU8),
            "qsgd" => {
                // The catalogue has their ranges.
                let levels = u16::try_from(self.whole("levels")?).unwrap_or(u16::MAX);
                Box::new(Qsgd::new(levels, whole(self, "bucket")?)?)
            }
            "tern_grad" => {
                let clip = self.real("clip")? as f32;
                Box::new(TernGrad::new((clip > 0.0).then_some(clip))?)
            }
            "natural" => Box::new(Natural),
            "sign" => Box::new(Sign),
            "sign_vote" => Box::new(SignVote),
            "one_bit" => Box::new(OneBit),
            "top_k" => Box::new(TopK::new(self.real("ratio")?, indices()?)?),
            "random_k" => Box::new(RandomK::new(self.real("ratio")?)?),
            "threshold" => Box::new(Threshold::new(self.real("at")? as f32, indices()?)?),
            "sketch_ml" => Box::new(SketchMl::new(whole(self, "bins")?)?),
            "shrink" => Box::new(Shrink::new(self.of("of")?.compressor()?)?),
            other => return Err(unknown(Family::Compressor, other)),
        })
    }

    fn topology(&self) -> Result<Topology> {
        Ok(match self.name() {
            "ring" => Topology::Ring,
            "complete" => Topology::Complete,
            "torus" => Topology::Torus { rows: whole(self, "rows")? },
            "exponential" => Topology::StaticExponential,
            "one_peer" => Topology::OnePeerExponential,
            "shift_one" => Topology::ShiftOne,
            "davis" => Topology::Davis,
            "graph" => Topology::Graph(edges(self.word("edges")?).unwrap_or_default()),
            other => return Err(unknown(Family::Topology, other)),
        })
    }
}

/// The most cells of a sketch: a bucket has five times as many values of memory.
const MOST_CELLS: usize = 1 << 24;

/// A tensor as a matrix of its first axis by all others, where the range is one tensor of two axes or more.
fn matrix(layout: &Layout, range: &Range<usize>) -> Option<[usize; 2]> {
    let tensor = layout.tensors.iter().find(|tensor| tensor.range == *range)?;
    let rows = *tensor.shape.first().filter(|rows| tensor.shape.len() > 1 && **rows > 0)?;
    Some([rows, range.len() / rows])
}

/// Whether a product of this rank has fewer values than the matrix.
fn thin(rank: usize, [rows, columns]: [usize; 2]) -> bool {
    rank.saturating_mul(rows + columns) < rows * columns
}

/// A bucket a tensor, with what lies between it and the next; all in one where no tensor is named.
fn by_tensor(layout: &Layout) -> Vec<Range<usize>> {
    let mut starts: Vec<usize> = layout.tensors.iter().skip(1).map(|tensor| tensor.range.start).collect();
    starts.insert(0, 0);
    let ends = starts.iter().skip(1).copied().chain([layout.dense_len]);
    starts.iter().zip(ends).map(|(start, end)| *start..end).collect()
}

/// Buckets of one matrix each, where it is wanted, and of what lies between them.
fn by_matrix(layout: &Layout, wanted: impl Fn([usize; 2]) -> bool) -> Vec<Range<usize>> {
    let mut buckets = Vec::new();
    let mut end = 0;
    for tensor in &layout.tensors {
        if matrix(layout, &tensor.range).is_some_and(&wanted) {
            buckets.push(end..tensor.range.start);
            buckets.push(tensor.range.clone());
            end = tensor.range.end;
        }
    }
    buckets.push(end..layout.dense_len);
    buckets
}

fn whole(spec: &Spec, name: &str) -> Result<usize> {
    spec.whole(name).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
}

fn unknown(family: Family, name: &str) -> Error {
    Error::internal(format!("the {} {name} is declared and cannot be made", family.name()))
}

#[cfg(test)]
mod tests {
    use super::super::entries;
    use super::*;

    #[test]
    fn all_that_is_declared_can_be_made() {
        for entry in entries() {
            let text = match entry.family {
                Family::Strategy => entry.name.to_owned(),
                Family::Compressor if entry.name == "shrink" => "gather(shrink, feedback=true)".to_owned(),
                Family::Compressor => format!("gather({}, feedback=false)", entry.name),
                Family::Topology => format!("dpsgd({})", entry.name),
            };
            let spec: Spec = text.parse().unwrap();
            assert_eq!(spec.to_string().parse::<Spec>().unwrap(), spec);
            spec.check(32).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let refusal = |text: &str, world| text.parse::<Spec>().unwrap().check(world).unwrap_err().to_string();
        let e = refusal("two_phase(qsgd(levels=1), feedback=true)", 4);
        assert!(
            e.contains("expected a contraction, as shrink(…) makes") && e.contains("two_phase(to="),
            "{e}"
        );
        assert!(refusal("linear(top_k)", 4).contains("expected a linear compressor"));
        assert!(refusal("dpsgd(shift_one)", 5).contains("expected an even number"));
        assert!(refusal("d2(one_peer)", 4).contains("expected a symmetric topology"));
        assert!(refusal("hierarchical(every=6)", 4).contains("inner is 4, expected"));
        assert!(refusal("hierarchical(group=3)", 4).contains("group is 3, expected"));
        assert!(refusal("dpsgd(graph(0-9))", 4).contains("found 0–9"));
        assert!(
            refusal("fetch_sgd(rows=64, columns=16777216)", 1).contains("expected at most 16777216 cells")
        );
        assert!("dpsgd(davis)".parse::<Spec>().unwrap().check(1).is_ok());
    }
}
