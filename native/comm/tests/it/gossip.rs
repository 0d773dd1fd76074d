//! Workers that mix, each with a bowl of its own: f(x) = ½‖x − b‖². The best of all is the mean of all b.

use firesteel_comm::compress::{Indices, MinMaxU8, Plain, RandomK, Sign, TopK};
use firesteel_comm::gossip::{
    Choco, D2, Dcd, Descent, Dpsgd, FirstMoment, Gossip, Order, PushSum, QuasiGlobal, Tracking,
};
use firesteel_comm::topology::Topology;
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::Kind as ErrorKind;

use crate::compress::normal;
use crate::quasi_global::adam;
use crate::world::{KINDS, Kind, meshes, options, run};

pub const LEN: usize = 24;

pub fn target(rank: usize) -> Vec<f32> {
    normal(LEN, 500 + rank as u64)
}

fn mean(world: usize) -> Vec<f64> {
    let mut mean = vec![0.0; LEN];
    for rank in 0..world {
        mean.iter_mut().zip(target(rank)).for_each(|(mean, value)| *mean += f64::from(value) / world as f64);
    }
    mean
}

pub type Make = fn() -> Box<dyn Gossip>;

/// Plain SGD.
pub struct Sgd {
    pub rate: f32,
    pub gradient: Vec<f32>,
}

impl Descent for Sgd {
    fn rate(&self) -> f32 {
        self.rate
    }

    fn gradient(&self) -> Vec<f32> {
        self.gradient.clone()
    }

    fn go(&mut self, weights: &mut [f32]) {
        let gradient = self.gradient.clone();
        self.go_along(&gradient, weights);
    }

    fn go_along(&mut self, direction: &[f32], weights: &mut [f32]) {
        weights.iter_mut().zip(direction).for_each(|(weight, g)| *weight -= self.rate * g);
    }
}

/// The weights of a worker after some steps, from 0.
fn descend(mesh: &Mesh, made: &mut dyn Gossip, weights: &mut [f32], steps: std::ops::Range<u64>, rate: f32) {
    let target = target(mesh.rank());
    for step in steps {
        let gradient: Vec<f32> = weights.iter().zip(&target).map(|(x, b)| x - b).collect();
        made.step(mesh, Key::new(step, 0, 0), weights, &mut Sgd { rate, gradient }).unwrap();
    }
}

pub fn all(make: Make, world: usize, steps: u64, rate: f32) -> Vec<Vec<f32>> {
    run(meshes(Kind::Local, world, &options()), |mesh| {
        let (mut made, mut weights) = (make(), vec![0.0; LEN]);
        descend(&mesh, made.as_mut(), &mut weights, 0..steps, rate);
        weights
    })
}

/// How far the mean of all workers is from the best, and how far they are from their mean, by the best's length.
fn far(all: &[Vec<f32>]) -> [f64; 2] {
    let (world, best) = (all.len(), mean(all.len()));
    let of = |i: usize| all.iter().map(|x| f64::from(x[i])).sum::<f64>() / world as f64;
    let size: f64 = best.iter().map(|b| b * b).sum::<f64>().sqrt();
    let off: f64 = (0..LEN).map(|i| (of(i) - best[i]).powi(2)).sum::<f64>().sqrt();
    let apart: f64 = (0..LEN).flat_map(|i| all.iter().map(move |x| (f64::from(x[i]) - of(i)).powi(2))).sum();
    [off / size, (apart / world as f64).sqrt() / size]
}

/// The most that the mean may be off, and that workers may be apart; the least that they are.
fn cases() -> Vec<(&'static str, Make, usize, f32, [f64; 3])> {
    use Topology::*;
    let any = 0.0;
    vec![
        // Its mean is right, and different data leave a bias.
        ("d-psgd", || Box::new(Dpsgd::new(Ring, Order::MixThenUpdate)), 8, 0.1, [1e-4, 1.0, 0.05]),
        (
            "d-psgd the other way",
            || Box::new(Dpsgd::new(Ring, Order::UpdateThenMix)),
            8,
            0.1,
            [1e-4, 1.0, 0.05],
        ),
        (
            "all mix with all",
            || Box::new(Dpsgd::new(Complete, Order::UpdateThenMix)),
            5,
            0.1,
            [1e-4, 1e-6, any],
        ),
        // In f32 its mean wanders.
        ("d²", || Box::new(D2::new(Ring).unwrap()), 8, 0.1, [2e-3, 1e-4, any]),
        // Whose least eigenvalue is below −1/3.
        ("d² on a torus", || Box::new(D2::new(Torus { rows: 4 }).unwrap()), 16, 0.1, [2e-3, 1e-4, any]),
        ("tracking", || Box::new(Tracking::new(Ring)), 8, 0.1, [1e-4, 1e-4, any]),
        ("tracking, directed", || Box::new(Tracking::new(StaticExponential)), 6, 0.1, [1e-4, 1e-4, any]),
        ("push-sum", || Box::new(PushSum::new(StaticExponential)), 6, 0.02, [1e-3, 0.2, any]),
        ("push-sum, one peer", || Box::new(PushSum::new(OnePeerExponential)), 8, 0.02, [0.05, 0.3, any]),
        ("shift-one", || Box::new(Dpsgd::new(ShiftOne, Order::UpdateThenMix)), 6, 0.02, [0.05, 0.3, any]),
        (
            "quasi-global",
            || Box::new(QuasiGlobal::new(Ring, 0.9, 0.9, false).unwrap()),
            8,
            0.02,
            [1e-2, 1.0, any],
        ),
        (
            "quasi-global, Nesterov",
            || Box::new(QuasiGlobal::new(Ring, 0.9, 0.9, true).unwrap()),
            8,
            0.02,
            [1e-2, 1.0, any],
        ),
        // Each divides by its own gradient's square too, if by little of it: a bias, for which Adam that is local has 0.4 to 0.5.
        ("quasi-global adam", || Box::new(adam(Ring, FirstMoment::Local)), 8, 1e-3, [0.25, 0.1, any]),
        (
            "quasi-global adam of the paper",
            || Box::new(adam(Ring, FirstMoment::Global)),
            8,
            1e-3,
            [0.4, 0.01, any],
        ),
        (
            "choco, top-k",
            || Box::new(Choco::new(Ring, Box::new(TopK::new(0.3, Indices::Fixed).unwrap()), 0.3, 1).unwrap()),
            6,
            0.02,
            [1e-3, 0.5, any],
        ),
        (
            "choco, sign",
            || Box::new(Choco::new(Ring, Box::new(Sign), 0.3, 1).unwrap()),
            6,
            0.02,
            [1e-3, 0.5, any],
        ),
        (
            "dcd, 8 bits",
            || Box::new(Dcd::new(Ring, Box::new(MinMaxU8), 1).unwrap()),
            6,
            0.05,
            [0.02, 0.6, any],
        ),
    ]
}

#[test]
fn all_go_where_their_theory_says() {
    for (name, make, world, rate, [off, apart, least]) in cases() {
        let found = far(&all(make, world, 1_500, rate));
        assert!(found[0] <= off && found[1] <= apart && found[1] >= least, "{name}: {found:?}");
    }
}

#[test]
fn a_checkpoint_goes_on_as_if_it_had_not_stopped() {
    for (name, make, world, rate, _) in cases() {
        let through = |stop: bool| {
            run(meshes(Kind::Local, world, &options()), |mesh| {
                let (mut made, mut weights) = (make(), vec![0.0; LEN]);
                descend(&mesh, made.as_mut(), &mut weights, 0..7, rate);
                if stop {
                    let state = made.state();
                    made = make();
                    made.set_state(state, LEN).unwrap();
                }
                descend(&mesh, made.as_mut(), &mut weights, 7..15, rate);
                weights
            })
        };
        assert_eq!(through(true), through(false), "{name}");
        let e = make().set_state(vec![vec![]; 9], LEN).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{name}");
    }
}

#[test]
fn a_neighbour_gets_one_vector() {
    let bytes = 4 * LEN as u64;
    let cases: [(&str, Make, u64); 5] = [
        ("ring", || Box::new(Dpsgd::new(Topology::Ring, Order::MixThenUpdate)), 2 * bytes),
        ("one peer", || Box::new(Dpsgd::new(Topology::ShiftOne, Order::MixThenUpdate)), bytes),
        ("tracking", || Box::new(Tracking::new(Topology::Ring)), 4 * bytes),
        ("push-sum", || Box::new(PushSum::new(Topology::StaticExponential)), 3 * (bytes + 4)),
        (
            "choco",
            || Box::new(Choco::new(Topology::Ring, Box::new(Sign), 0.5, 1).unwrap()),
            2 * (4 + LEN as u64 / 8),
        ),
    ];
    for kind in KINDS {
        for (name, make, expected) in cases {
            for sent in run(meshes(kind, 6, &options()), |mesh| {
                let (mut made, mut weights) = (make(), vec![1.0; LEN]);
                // Tracking has nothing to mix in its first step but weights.
                descend(&mesh, made.as_mut(), &mut weights, 0..1, 0.1);
                let before = mesh.sent();
                descend(&mesh, made.as_mut(), &mut weights, 1..2, 0.1);
                mesh.sent() - before
            }) {
                assert_eq!(sent, expected, "{name}, {kind:?}");
            }
        }
    }
}

#[test]
fn what_is_tracked_and_what_is_pushed_stays() {
    let done = run(meshes(Kind::Local, 6, &options()), |mesh| {
        let (mut tracking, mut push) =
            (Tracking::new(Topology::Ring), PushSum::new(Topology::StaticExponential));
        let (mut a, mut b) = (vec![0.0; LEN], vec![0.0; LEN]);
        descend(&mesh, &mut tracking, &mut a, 0..20, 0.1);
        descend(&mesh, &mut push, &mut b, 20..40, 0.1);
        let last: Vec<f32> = tracking.state().swap_remove(1);
        (tracking.tracked().to_vec(), last, push.mass())
    });
    let sum = |values: Vec<f32>| values.into_iter().map(f64::from).sum::<f64>();
    let [tracked, last]: [Vec<f32>; 2] =
        [done.iter().map(|one| one.0[3]).collect(), done.iter().map(|one| one.1[3]).collect()];
    assert!((sum(tracked) - sum(last)).abs() < 1e-4, "the mean of y is that of gradients");
    let masses: Vec<f32> = done.iter().map(|one| one.2).collect();
    assert!(masses.iter().all(|mass| *mass > 0.0) && (sum(masses) - 6.0).abs() < 1e-5);
}

#[test]
fn what_cannot_be_is_refused() {
    let text = |e: firesteel_error::Error| {
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        e.to_string()
    };
    let e = text(D2::new(Topology::OnePeerExponential).unwrap_err());
    assert_eq!(e, "D² over one_peer, expected a symmetric topology that stays");
    let e = text(QuasiGlobal::new(Topology::Ring, 1.0, 0.9, false).unwrap_err());
    assert_eq!(e, "momentum is 1, expected at least 0 and below 1");
    let gamma = text(Choco::new(Topology::Ring, Box::new(Plain), 1.5, 1).unwrap_err());
    assert_eq!(gamma, "gamma is 1.5, expected above 0 and at most 1");
    let unbiased = Box::new(RandomK::new(0.1).unwrap());
    assert!(
        text(Choco::new(Topology::Ring, unbiased, 0.5, 1).unwrap_err()).contains("expected a contraction")
    );
    let coarse = Box::new(TopK::new(0.01, Indices::Fixed).unwrap());
    assert!(text(Dcd::new(Topology::Ring, coarse, 1).unwrap_err()).contains("expected a milder compressor"));
    let done = run(meshes(Kind::Local, 3, &options()), |mesh| {
        let mut made = Dpsgd::new(Topology::ShiftOne, Order::MixThenUpdate);
        let mut down = Sgd { rate: 0.1, gradient: vec![0.0] };
        made.step(&mesh, Key::new(0, 0, 0), &mut [0.0], &mut down).unwrap_err().to_string()
    });
    assert!(done.iter().all(|e| e == "shift_one among 3 workers, expected an even number"));
}
