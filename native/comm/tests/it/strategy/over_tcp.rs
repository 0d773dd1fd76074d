//! Every strategy over sockets, beside the same over threads.

use firesteel_comm::Fabric;
use firesteel_comm::strategy::{Family, Spec, entries};

use super::{BOWL, all, bowl, build, descend, repeats};
use crate::world::{Kind, meshes, options, run};

/// The weights of each worker after two epochs.
fn descended(text: &str, kind: Kind, world: usize) -> Vec<Vec<f32>> {
    run(meshes(kind, world, &options()), |mesh| {
        let rank = mesh.rank();
        let mut strategy = build(text, mesh, &bowl(text));
        let mut weights = vec![0.0; BOWL];
        descend(strategy.as_mut(), rank, &mut weights, 0..2, 6);
        weights
    })
}

#[test]
fn sockets_change_no_bit() {
    let mut ran = Vec::new();
    for text in all() {
        let spec: Spec = text.parse().unwrap();
        for world in [2, 3, 4] {
            if spec.check(world).is_err() {
                continue;
            }
            let found = descended(&text, Kind::Tcp, world);
            assert!(found.iter().all(|of_rank| *of_rank == found[0]), "{text} among {world}");
            if repeats(&text) {
                assert!(found == descended(&text, Kind::Local, world), "{text} among {world}");
            }
            ran.push(spec.name());
        }
    }
    let declared = entries().iter().filter(|entry| entry.family == Family::Strategy);
    declared.for_each(|entry| assert!(ran.contains(&entry.name), "{} ran nowhere", entry.name));
}
