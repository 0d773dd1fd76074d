//! Strategies that go on from a checkpoint.

use std::sync::Arc;

use firesteel_comm::reduce::State;
use firesteel_comm::strategy::{Layout, Spec, TableLayout};
use firesteel_comm::{Fabric, local_world};
use firesteel_error::{Error, Kind as ErrorKind};

use super::{BOWL, all, bowl, build, descend, repeats};
use crate::world::{Kind, meshes, options, run};

#[test]
fn what_goes_on_from_a_checkpoint_goes_on_as_if_it_had_not_stopped() {
    const WORLD: usize = 4;
    for text in all().into_iter().filter(|text| repeats(text)) {
        let whole = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(&text, mesh, &bowl(&text));
            let mut weights = vec![0.0; BOWL];
            let first = descend(strategy.as_mut(), rank, &mut weights, 0..1, 7).remove(0);
            let state = strategy.state();
            (first, state, descend(strategy.as_mut(), rank, &mut weights, 1..3, 7))
        });
        let states: Vec<State> = whole.iter().map(|(_, state, _)| state.clone()).collect();
        let gone_on = |world: usize| {
            run(meshes(Kind::Local, world, &options()), |mesh| {
                let rank = mesh.rank();
                let mut strategy = build(&text, mesh, &bowl(&text));
                strategy.resume(&states).unwrap();
                let mut weights = whole[0].0.clone();
                descend(strategy.as_mut(), rank, &mut weights, 1..3, 7)
            })
        };
        assert!(gone_on(WORLD)[0] == whole[0].2, "{text}");
        // Other workers go on too, alike.
        if ["dpsgd(shift_one", "dpsgd(graph"].iter().all(|some| !text.starts_with(some))
            && text != "hierarchical"
        {
            let done = gone_on(3);
            assert!(done.iter().all(|of_rank| *of_rank == done[0]), "{text}");
        }
    }
}

/// What four workers of a strategy have to go on with after an epoch.
fn states(text: &str) -> Vec<State> {
    run(meshes(Kind::Local, 4, &options()), |mesh| {
        let rank = mesh.rank();
        let mut strategy = build(text, mesh, &bowl(text));
        descend(strategy.as_mut(), rank, &mut vec![0.0; BOWL], 0..1, 7);
        strategy.state()
    })
}

/// What a worker of four says of states.
fn resumed(text: &str, layout: &Layout, states: &[State]) -> Result<(), Error> {
    let spec: Spec = text.parse().unwrap();
    let mesh = Arc::new(local_world(4, &options()).unwrap().swap_remove(1));
    let mut strategy = spec.build(mesh, layout, 5).unwrap();
    spec.resume(strategy.as_mut(), states)
}

/// The bowl without the last ten values of its dense part.
fn smaller(text: &str) -> Layout {
    let mut layout = bowl(text);
    layout.tensors.pop();
    layout.dense_len = 80;
    layout.tables = vec![TableLayout { range: 80..86, rows: 3, dims: 2 }];
    layout.len = 86;
    layout
}

#[test]
fn a_state_of_another_network_is_refused_by_name() {
    // What these keep is as long for any network: a share, a count, a sketch; of rows, their tables; of power_sgd the matrix.
    let any = ["push_sum", "post_local", "fetch_sgd", "s2", "power_sgd"];
    let mut refused = Vec::new();
    for text in all() {
        let spec: Spec = text.parse().unwrap();
        let states = states(&text);
        if states.iter().all(State::is_empty) || any.contains(&spec.name()) {
            continue;
        }
        resumed(&text, &bowl(&text), &states).unwrap();
        let e = resumed(&text, &smaller(&text), &states).expect_err(&text);
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
        let said = e.to_string();
        assert!(said.starts_with(&format!("the strategy {spec}: ")) && said.contains("expected "), "{said}");
        refused.push(spec.name());
    }
    for name in [
        "two_phase",
        "gather",
        "linear",
        "dgc",
        "ok_top_k",
        "g_top_k",
        "one_bit_adam",
        "slow_mo",
        "quasi_global",
    ] {
        assert!(refused.contains(&name), "{name} keeps nothing");
    }
}

#[test]
fn what_is_wrong_with_a_state_is_said() {
    let refusal = |text: &str, states: &[State]| resumed(text, &bowl(text), states).unwrap_err().to_string();
    let of = |name: &str, len: usize| State::from([(name.to_owned(), vec![0.5; len])]);
    let none = || vec![State::new(); 3];
    let quasi_global = "quasi_global(topology=ring, momentum=0.9, keep=0.9, nesterov=true)";
    let e = refusal(quasi_global, &[vec![of("0", 95)], none()].concat());
    assert_eq!(e, format!("the strategy {quasi_global}: a state of vectors of 95 values, expected 96"));
    let kept = "two_phase(to=sign, from=sign, feedback=true)";
    let e = refusal(kept, &[vec![of("1/left", 41)], none()].concat());
    let tail = "the bucket of 48..90: a state of 41 values 'left' of rank 0, expected 42";
    assert_eq!(e, format!("the strategy {kept}: {tail}"));
    // Of 48 values each of four workers owns 12.
    let e = refusal(kept, &[none(), vec![of("0/left of the sum", 11)]].concat());
    let tail = "the bucket of 0..48: a state of 11 values 'left of the sum' of rank 3, expected 12";
    assert_eq!(e, format!("the strategy {kept}: {tail}"));
    let e = refusal(kept, &[vec![of("2/left", 41)], none()].concat());
    assert_eq!(e, format!("the strategy {kept}: a state of bucket 2, expected 2 buckets"));
}
