//! Strategies that go on from a checkpoint.

use firesteel_comm::Fabric;
use firesteel_comm::reduce::State;

use super::{BOWL, all, bowl, build, descend};
use crate::world::{Kind, meshes, options, run};

#[test]
fn what_goes_on_from_a_checkpoint_goes_on_as_if_it_had_not_stopped() {
    const WORLD: usize = 4;
    // Whose gradients come when they come.
    let steady = |text: &String| !["ssp", "asp"].contains(&text.as_str());
    for text in all().into_iter().filter(steady) {
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
