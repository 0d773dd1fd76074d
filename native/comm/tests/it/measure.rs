//! What messages cost, measured over networks of which it is known.

use std::collections::BTreeMap;

use firesteel_comm::collective::Link;
use firesteel_comm::{Key, Network, Simulated, simulated_world};

use crate::world::{Kind, meshes, options, run};

fn simulated(world: usize, network: &Network) -> Vec<Simulated> {
    simulated_world(world, network, &options()).unwrap()
}

#[track_caller]
fn near(name: &str, found: f64, expected: f64, share: f64) {
    assert!((found / expected - 1.0).abs() <= share, "{name} is {found}, expected {expected}");
}

#[test]
fn a_simulated_network_is_measured_as_it_is() {
    for (latency, per_message, bandwidth) in
        [(3e-5, 1e-5, 3.125e9), (3e-4, 2e-5, 1.25e8), (4e-2, 1e-5, 1.25e7)]
    {
        for world in [2, 3, 8] {
            let network = Network { latency, per_message, bandwidth, ..Network::default() };
            let found =
                run(simulated(world, &network), |fabric| Link::measure(&fabric, Key::new(0, 3, 0)).unwrap());
            assert!(found.iter().all(|link| *link == found[0]), "{world}: {found:?}");
            near("the latency", found[0].latency, latency, 0.01);
            near("what a message takes", found[0].per_message, per_message, 0.01);
            near("the bandwidth", found[0].bandwidth, bandwidth, 0.01);
        }
    }
}

#[test]
fn the_worst_link_is_what_all_measure() {
    let slow = Link { latency: 5e-3, per_message: 1e-4, bandwidth: 1e6 };
    let network = Network { links: BTreeMap::from([((1, 2), slow)]), ..Network::default() };
    let found = run(simulated(4, &network), |fabric| Link::measure(&fabric, Key::new(0, 0, 0)).unwrap());
    assert!(found.iter().all(|link| *link == found[0]), "{found:?}");
    // The way back is as fast as any.
    near("the latency", found[0].latency, (slow.latency + network.latency) / 2.0, 0.1);
    near("the bandwidth", found[0].bandwidth, slow.bandwidth, 0.01);
}

#[test]
fn all_measure_the_same_over_every_fabric() {
    for kind in [Kind::Local, Kind::Tcp, Kind::Mixed] {
        let found = run(meshes(kind, 3, &options()), |mesh| Link::measure(&mesh, Key::new(0, 0, 0)).unwrap());
        assert!(found.iter().all(|link| *link == found[0]), "{kind:?}: {found:?}");
        let Link { latency, per_message, bandwidth } = found[0];
        assert!(latency < 1.0 && per_message < 0.1 && bandwidth > 1e6, "{kind:?}: {found:?}");
    }
}
