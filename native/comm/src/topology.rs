//! Who mixes with whom, and with what weight.
//!
//! A row of the mixing matrix W says what worker i makes of its own vector and its neighbours': xᵢ ← Σⱼ wᵢⱼ·xⱼ. Rows sum to 1;
//! columns too here, so Σᵢ xᵢ stays what it was.

use std::fmt;

use firesteel_error::{Error, Result};

/// A way to connect workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Each with the one before and the one behind.
    Ring,
    /// Each with all others: an average.
    Complete,
    /// A grid of so many rows whose ends meet; the world is a multiple of it.
    Torus {
        /// At least 1.
        rows: usize,
    },
    /// Each hears those 1, 2, 4 and so on before it (Ying et al. 2021). Directed.
    StaticExponential,
    /// The same, one of them a step: worlds of a power of two agree after log₂n steps. Directed.
    OnePeerExponential,
    /// One partner a step, of the other half (BAGUA's). Even worlds.
    ShiftOne,
    /// Who met whom in Davis' Southern Women: 18 women, 14 events. Worlds of 32.
    Davis,
    /// Any graph without direction: its edges, each once.
    Graph(Vec<(usize, usize)>),
}

/// A worker's row of W, and whom it sends to.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The weight of its own vector.
    pub own: f64,
    /// Those that it hears, ascending, and their weights.
    pub from: Vec<(usize, f64)>,
    /// Those that hear it, ascending.
    pub to: Vec<usize>,
}

/// The events that each of the women attended, from 1.
const DAVIS: [&[usize]; 18] = [
    &[1, 2, 3, 4, 5, 6, 8, 9],
    &[1, 2, 3, 5, 6, 7, 8],
    &[2, 3, 4, 5, 6, 7, 8, 9],
    &[1, 3, 4, 5, 6, 7, 8],
    &[3, 4, 5, 7],
    &[3, 5, 6, 8],
    &[5, 6, 7, 8],
    &[6, 8, 9],
    &[5, 7, 8, 9],
    &[7, 8, 9, 12],
    &[8, 9, 10, 12],
    &[8, 9, 10, 12, 13, 14],
    &[7, 8, 9, 10, 12, 13, 14],
    &[6, 7, 9, 10, 11, 12, 13, 14],
    &[7, 8, 10, 11, 12],
    &[8, 9],
    &[9, 11],
    &[9, 11],
];

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topology::Ring => f.write_str("ring"),
            Topology::Complete => f.write_str("complete"),
            Topology::Torus { rows } => write!(f, "torus(rows={rows})"),
            Topology::StaticExponential => f.write_str("exponential"),
            Topology::OnePeerExponential => f.write_str("one_peer"),
            Topology::ShiftOne => f.write_str("shift_one"),
            Topology::Davis => f.write_str("davis"),
            Topology::Graph(edges) => write!(f, "graph of {} edges", edges.len()),
        }
    }
}

impl Topology {
    /// Sees that a world has it.
    ///
    /// # Errors
    /// `InvalidArgument` naming the topology, the world and what it needs.
    pub fn check(&self, world: usize) -> Result<()> {
        let wrong =
            |what: String| Err(Error::argument(format!("{self} among {world} workers, expected {what}")));
        match self {
            Topology::Torus { rows } if *rows == 0 || !world.is_multiple_of(*rows) => {
                wrong(format!("a multiple of {rows}"))
            }
            Topology::ShiftOne if !world.is_multiple_of(2) => wrong("an even number".to_owned()),
            Topology::Davis if world != DAVIS.len() + 14 => wrong("32".to_owned()),
            Topology::Graph(edges) => {
                let mut seen = std::collections::BTreeSet::new();
                for &(a, b) in edges {
                    if a == b || a.max(b) >= world {
                        return wrong(format!("edges between two different of them, found {a}–{b}"));
                    }
                    if !seen.insert((a.min(b), a.max(b))) {
                        return wrong(format!("each edge once, found {a}–{b} twice"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// After how many steps rows repeat.
    pub fn period(&self, world: usize) -> u64 {
        match self {
            Topology::OnePeerExponential => u64::from(hops(world)).max(1),
            Topology::ShiftOne => (world as u64 / 2).max(1),
            _ => 1,
        }
    }

    /// Whether W is the same in every step.
    pub fn is_fixed(&self) -> bool {
        !matches!(self, Topology::OnePeerExponential | Topology::ShiftOne)
    }

    /// Whether W is symmetric.
    pub fn is_symmetric(&self) -> bool {
        !matches!(self, Topology::StaticExponential | Topology::OnePeerExponential)
    }

    /// A worker's row in a step, of a world that [`Topology::check`] has seen.
    pub fn row(&self, step: u64, rank: usize, world: usize) -> Row {
        match self {
            Topology::StaticExponential => {
                let offsets: Vec<usize> = (0..hops(world)).map(|hop| 1 << hop).collect();
                directed(rank, world, &offsets)
            }
            Topology::OnePeerExponential if world > 1 => {
                directed(rank, world, &[1 << (step % u64::from(hops(world)))])
            }
            Topology::ShiftOne if world > 1 => {
                let peer = partner(step as usize, rank, world);
                Row { own: 0.5, from: vec![(peer, 0.5)], to: vec![peer] }
            }
            _ => {
                let to = self.neighbours(rank, world);
                // Metropolis–Hastings: symmetric whatever the degrees (Xiao and Boyd 2004).
                let weight = |other: &usize| {
                    let degree = self.neighbours(*other, world).len().max(to.len());
                    (*other, 1.0 / (1.0 + degree as f64))
                };
                let from: Vec<(usize, f64)> = to.iter().map(weight).collect();
                Row { own: 1.0 - from.iter().map(|(_, weight)| weight).sum::<f64>(), from, to }
            }
        }
    }

    /// Those that a worker is connected with, ascending.
    fn neighbours(&self, rank: usize, world: usize) -> Vec<usize> {
        let mut all: Vec<usize> = match self {
            Topology::Ring => vec![(rank + 1) % world, (rank + world - 1) % world],
            Topology::Complete => (0..world).collect(),
            Topology::Torus { rows } => {
                let columns = world / rows;
                let (row, column) = (rank / columns, rank % columns);
                let at = |row: usize, column: usize| row % rows * columns + column % columns;
                vec![
                    at(row + 1, column),
                    at(row + rows - 1, column),
                    at(row, column + 1),
                    at(row, column + columns - 1),
                ]
            }
            Topology::Davis => match DAVIS.get(rank) {
                Some(events) => events.iter().map(|event| DAVIS.len() + event - 1).collect(),
                None => (0..DAVIS.len())
                    .filter(|woman| DAVIS[*woman].contains(&(rank + 1 - DAVIS.len())))
                    .collect(),
            },
            Topology::Graph(edges) => {
                let other = |&(a, b): &(usize, usize)| match rank {
                    _ if a == rank => Some(b),
                    _ if b == rank => Some(a),
                    _ => None,
                };
                edges.iter().filter_map(other).collect()
            }
            Topology::StaticExponential | Topology::OnePeerExponential | Topology::ShiftOne => vec![],
        };
        all.sort_unstable();
        all.dedup();
        all.retain(|other| *other != rank);
        all
    }
}

/// ⌈log₂n⌉
fn hops(world: usize) -> u32 {
    world.next_power_of_two().trailing_zeros()
}

/// Hears those so many before it, all with one weight.
fn directed(rank: usize, world: usize, offsets: &[usize]) -> Row {
    let weight = 1.0 / (offsets.len() as f64 + 1.0);
    let mut from: Vec<(usize, f64)> =
        offsets.iter().map(|by| ((rank + world - by) % world, weight)).collect();
    let mut to: Vec<usize> = offsets.iter().map(|by| (rank + by) % world).collect();
    from.sort_unstable_by_key(|(other, _)| *other);
    to.sort_unstable();
    Row { own: weight, from, to }
}

/// BAGUA's partner of a step: the halves of the world are matched, one place further each step.
fn partner(step: usize, rank: usize, world: usize) -> usize {
    let half = world / 2;
    match rank < half {
        true => (step + rank) % half + half,
        false => (rank - half + half - step % half) % half,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(topology: &Topology, step: u64, world: usize) -> Vec<Vec<f64>> {
        topology.check(world).unwrap();
        let row = |rank| {
            let Row { own, from, .. } = topology.row(step, rank, world);
            let mut row = vec![0.0; world];
            row[rank] = own;
            from.iter().for_each(|(other, weight)| row[*other] = *weight);
            row
        };
        (0..world).map(row).collect()
    }

    fn all() -> Vec<(Topology, Vec<usize>)> {
        use Topology::*;
        let path = Graph(vec![(0, 1), (1, 2), (3, 2), (1, 4)]);
        vec![
            (Ring, (1..10).collect()),
            (Complete, (1..10).collect()),
            (Torus { rows: 4 }, vec![4, 8, 16, 20]),
            (Torus { rows: 2 }, vec![2, 4, 6]),
            (StaticExponential, (1..20).collect()),
            (OnePeerExponential, (1..20).collect()),
            (ShiftOne, (1..10).map(|half| 2 * half).collect()),
            (Davis, vec![32]),
            (path, vec![5, 7]),
        ]
    }

    #[test]
    fn what_is_sent_is_heard_and_mass_stays() {
        for (topology, worlds) in all() {
            for world in worlds {
                for step in 0..topology.period(world) + 1 {
                    let rows: Vec<Row> = (0..world).map(|rank| topology.row(step, rank, world)).collect();
                    let w = matrix(&topology, step, world);
                    for rank in 0..world {
                        let column: f64 = w.iter().map(|row| row[rank]).sum();
                        let row: f64 = w[rank].iter().sum();
                        assert!(
                            (column - 1.0).abs() < 1e-12 && (row - 1.0).abs() < 1e-12,
                            "{topology} {world}"
                        );
                        assert!(w[rank].iter().all(|weight| *weight >= 0.0));
                        let heard: Vec<usize> = (0..world)
                            .filter(|other| rows[*other].from.iter().any(|(from, _)| *from == rank))
                            .collect();
                        assert_eq!(rows[rank].to, heard, "{topology} {world}");
                        let symmetric =
                            (0..world).all(|other| (w[rank][other] - w[other][rank]).abs() < 1e-15);
                        assert!(symmetric || !topology.is_symmetric(), "{topology} {world}");
                    }
                    let again = matrix(&topology, step + topology.period(world), world);
                    assert_eq!(w, again, "{topology} {world}");
                }
            }
        }
    }

    /// Eigenvalues of a symmetric matrix, ascending, by Jacobi's rotations.
    fn eigenvalues(mut a: Vec<Vec<f64>>) -> Vec<f64> {
        let n = a.len();
        for _ in 0..60 {
            for p in 0..n {
                for q in p + 1..n {
                    if a[p][q].abs() < 1e-14 {
                        continue;
                    }
                    let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                    let t = if theta == 0.0 { 1.0 } else { t };
                    let c = 1.0 / (t * t + 1.0).sqrt();
                    let s = t * c;
                    for row in &mut a {
                        (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                    }
                    let (before, after) = a.split_at_mut(q);
                    for (x, y) in before[p].iter_mut().zip(&mut after[0]) {
                        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                    }
                }
            }
        }
        let mut all: Vec<f64> = (0..n).map(|i| a[i][i]).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    #[test]
    fn spectra_are_those_that_are_known() {
        let all = [
            (Topology::Ring, 8, 0.805, -1.0 / 3.0),
            (Topology::Ring, 16, 0.949, -1.0 / 3.0),
            (Topology::Ring, 32, 0.987, -1.0 / 3.0),
            (Topology::Davis, 32, 0.918, -0.434),
            (Topology::Torus { rows: 4 }, 16, 0.6, -0.6),
            (Topology::Complete, 9, 0.0, 0.0),
        ];
        for (topology, world, second, least) in all {
            let found = eigenvalues(matrix(&topology, 0, world));
            assert!((found[world - 1] - 1.0).abs() < 1e-9, "{topology}");
            assert!((found[world - 2] - second).abs() < 1e-3, "{topology}: {}", found[world - 2]);
            assert!((found[0] - least).abs() < 1e-3, "{topology}: {}", found[0]);
        }
        // Circulant: eigenvalues are sums of roots of unity.
        for (world, second) in [(8usize, 0.5), (16, 0.6), (32, 2.0 / 3.0)] {
            let w = matrix(&Topology::StaticExponential, 0, world);
            let modulus = |k: usize| {
                let sum = (0..world).fold((0.0, 0.0), |(re, im), j| {
                    let angle = std::f64::consts::TAU * (k * j) as f64 / world as f64;
                    (re + w[0][j] * angle.cos(), im + w[0][j] * angle.sin())
                });
                f64::hypot(sum.0, sum.1)
            };
            let most = (1..world).map(modulus).fold(0.0, f64::max);
            assert!((most - second).abs() < 1e-3, "{world}: {most}");
        }
    }

    /// How far a period's product is from the average.
    fn left(topology: &Topology, world: usize) -> f64 {
        let mut product: Vec<Vec<f64>> =
            (0..world).map(|i| (0..world).map(|j| f64::from(u8::from(i == j))).collect()).collect();
        for step in 0..topology.period(world) {
            let w = matrix(topology, step, world);
            product = (0..world)
                .map(|i| (0..world).map(|j| (0..world).map(|k| w[i][k] * product[k][j]).sum()).collect())
                .collect();
        }
        product.iter().flatten().map(|value| (value - 1.0 / world as f64).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn one_peer_a_step_agrees_in_powers_of_two_only() {
        for world in [1, 2, 4, 8, 16, 32] {
            assert!(left(&Topology::OnePeerExponential, world) < 1e-12, "{world}");
        }
        for world in [3, 6, 12] {
            assert!(left(&Topology::OnePeerExponential, world) > 0.01, "{world}");
        }
        for (world, agrees) in [(2, true), (4, true), (8, false), (16, false)] {
            assert_eq!(left(&Topology::ShiftOne, world) < 1e-12, agrees, "{world}");
        }
    }

    #[test]
    fn partners_are_those_of_bagua() {
        let pairs = |step| (0..4).map(|rank| partner(step, rank, 4)).collect::<Vec<_>>();
        assert_eq!((pairs(0), pairs(1)), (vec![2, 3, 0, 1], vec![3, 2, 1, 0]));
        for world in [2, 6, 10] {
            for step in 0..12 {
                for rank in 0..world {
                    assert_eq!(partner(step, partner(step, rank, world), world), rank);
                }
            }
        }
    }

    #[test]
    fn worlds_that_do_not_have_it_are_named() {
        let said = |topology: Topology, world| topology.check(world).unwrap_err().to_string();
        assert_eq!(said(Topology::ShiftOne, 5), "shift_one among 5 workers, expected an even number");
        assert_eq!(said(Topology::Davis, 16), "davis among 16 workers, expected 32");
        assert_eq!(
            said(Topology::Torus { rows: 3 }, 8),
            "torus(rows=3) among 8 workers, expected a multiple of 3"
        );
        let graph = |edges| Topology::Graph(edges);
        assert!(said(graph(vec![(0, 3)]), 3).ends_with("found 0–3"));
        assert!(said(graph(vec![(1, 1)]), 3).ends_with("found 1–1"));
        assert!(said(graph(vec![(0, 1), (1, 0)]), 3).ends_with("found 1–0 twice"));
    }
}
