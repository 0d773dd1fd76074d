//! Advice against closed forms, and that it is the same each time.

use firesteel_comm::Network;
use firesteel_comm::advise::{Advice, Bound, Change, Coding, Job, Profile, TableUse, advise, table};

fn of(job: &Job, network: &str) -> Vec<Advice> {
    advise(job, &network.parse().unwrap(), &Profile::default()).unwrap()
}

/// The advice on a strategy.
#[track_caller]
fn on<'a>(all: &'a [Advice], text: &str) -> &'a Advice {
    let spec = text.parse().unwrap();
    all.iter().find(|advice| advice.spec == spec).unwrap()
}

#[track_caller]
fn near(found: f64, expected: f64, share: f64) {
    assert!((found / expected - 1.0).abs() <= share, "{found}, expected {expected}");
}

#[test]
fn slow_links_want_short_messages() {
    let all = of(&Job::new(100_000_000, 0.15, 8), "1gbit, 0.5ms");
    let sharded = on(&all, "sharded");
    // 2·(n−1)/n·S, of which a part is on its way while backward computes.
    near(sharded.bytes as f64, 1.75e8, 0.02);
    near(sharded.seconds, 1.4 + 0.05, 0.1);
    assert_eq!((sharded.bound, sharded.change), (Bound::Bandwidth, Change::Nothing));
    let (bf16, sign) = (on(&all, "two_phase(bf16, bf16)"), on(&all, "two_phase(sign, sign, feedback=true)"));
    near(bf16.bytes as f64, 8.75e7, 0.03);
    near(bf16.seconds, 0.5 * 1.4 + 0.05, 0.15);
    assert!(sign.seconds < 0.3 && sign.bytes < 8_000_000, "{sign:?}");
    assert!(sign.costs.contains("compressor's law"));
    // An eighth as often.
    near(on(&all, "local(every=8)").seconds, 0.15 + 1.4 / 8.0, 0.1);
    assert!(all.windows(2).all(|two| two[0].seconds <= two[1].seconds));
    let text = table(&all);
    assert_eq!(text.lines().count(), 1 + 2 * all.len());
    assert!(text.contains("sharded\n") && text.contains("needs optimizer sgd with momentum 0"), "{text}");
}

#[test]
fn fast_links_hide_behind_computing() {
    let all = of(&Job::new(4_000_000, 0.2, 4), "cluster");
    let sharded = on(&all, "sharded");
    assert_eq!(sharded.bound, Bound::Computing, "{sharded:?}");
    assert!(sharded.exposed < 0.01 && sharded.seconds < 0.21, "{sharded:?}");
}

#[test]
fn far_links_want_few_rounds() {
    let all = of(&Job::new(16_384, 0.0, 16), "wan");
    let (ring, halves) = (on(&all, "all_reduce(ring)"), on(&all, "all_reduce(halving_doubling)"));
    assert_eq!((ring.bound, halves.bound), (Bound::Latency, Bound::Latency));
    // Behind a round for the totals.
    near(ring.seconds, (1.0 + 30.0) * 0.04, 0.05);
    near(halves.seconds, (1.0 + 8.0) * 0.04, 0.05);
    near(on(&all, "sharded").seconds, 2.0 * 0.04, 0.05);
}

#[test]
fn a_model_four_times_as_long_on_links_four_times_as_fast_takes_the_same() {
    let job = |bytes| Job { bucket_bytes: bytes / 8, ..Job::new(bytes, 0.1, 4) };
    let (short, long) = (of(&job(1 << 18), "10mb/s, 1ms"), of(&job(1 << 26), "2560mb/s, 1ms"));
    for advice in &short {
        let found = on(&long, &advice.spec.to_string());
        near(found.seconds, advice.seconds, 0.02);
        near(found.bytes as f64, 256.0 * advice.bytes as f64, 0.05);
    }
}

/// Tables are summed on threads where time is real.
#[test]
fn tables_take_the_same_each_time() {
    let table = |rows| TableUse { rows, dims: 8, touched: rows / 10 };
    let job = Job { tables: vec![table(20_000), table(50_000), table(5_000)], ..Job::new(1 << 20, 0.01, 4) };
    let union = |all: &[Advice]| on(all, "union").seconds;
    let first = union(&of(&job, "lan"));
    assert!((0..4).all(|_| union(&of(&job, "lan")) == first));
}

#[test]
fn a_straggler_holds_up_those_that_wait_for_all() {
    let mut network: Network = "cluster".parse().unwrap();
    network.stragglers = vec![3.0];
    let all = advise(&Job::new(1_000_000, 0.1, 4), &network, &Profile::default()).unwrap();
    near(on(&all, "sharded").seconds, 0.3, 0.05);
}

#[test]
fn slow_compressors_are_what_is_waited_for() {
    let profile = Profile::default().with("sign", Coding { encode: 5e-8, decode: 5e-8 });
    let job = Job::new(40_000_000, 0.1, 4);
    let network = "cluster".parse().unwrap();
    let all = advise(&job, &network, &profile).unwrap();
    let sign = on(&all, "two_phase(sign, sign, feedback=true)");
    // All twice, a quarter once more, and all once more.
    near(sign.encoding, 1e7 * 5e-8 * 3.25, 1e-9);
    assert_eq!(sign.bound, Bound::Encoding);
    assert_eq!(all, advise(&job, &network, &profile).unwrap());
}

#[test]
fn tables_have_strategies_of_their_own() {
    let tables = vec!["1000000, 16, 20000".parse().unwrap()];
    let all = of(&Job { tables, ..Job::new(4_000_000, 0.01, 4) }, "lan");
    let (rows, whole) = (on(&all, "union"), on(&all, "dpsgd(ring)"));
    assert!(whole.bytes > 5 * rows.bytes, "{rows:?} {whole:?}");
    assert!(all.iter().any(|advice| advice.spec.name() == "sparse_gather"));
}

#[test]
fn who_is_alone_has_no_choice() {
    let all = of(&Job::new(1_000_000, 0.1, 1), "lan");
    assert_eq!(all.len(), 1);
    near(all[0].seconds, 0.1, 1e-9);
    assert_eq!((all[0].spec.name(), all[0].bytes, all[0].bound), ("sharded", 0, Bound::Computing));
}

#[test]
fn what_is_no_job_is_refused() {
    let refusal = |job: Job| advise(&job, &Network::default(), &Profile::default()).unwrap_err().to_string();
    assert_eq!(refusal(Job::new(3, 0.1, 2)), "model_bytes is 3, expected 4 to 17592186044416 bytes");
    assert_eq!(refusal(Job::new(4, -0.1, 2)), "step_seconds is -0.1, expected seconds from 0 on");
    assert_eq!(refusal(Job::new(4, 0.1, 0)), "workers is 0, expected 1 to 256");
    let tables = vec![TableUse { rows: 1, dims: 1, touched: 2 }];
    let e = "1000,16".parse::<TableUse>().unwrap_err().to_string();
    assert!(e.starts_with("a table is '1000,16', expected its rows"), "{e}");
    let e = refusal(Job { tables, ..Job::new(4, 0.1, 2) });
    assert!(e.starts_with("a table is 1 rows of 1 values, 2 touched, expected rows of 1 to "), "{e}");
}

#[test]
#[ignore = "prints what this computer's compressors take, and a table"]
fn a_table() {
    let start = std::time::Instant::now();
    let profile = Profile::measure().unwrap();
    println!("{profile:?}, measured in {:?}", start.elapsed());
    for (workers, network) in [(8, "1gbit, 0.5ms"), (16, "cluster"), (64, "lan")] {
        let start = std::time::Instant::now();
        let all = advise(&Job::new(100_000_000, 0.15, workers), &network.parse().unwrap(), &profile).unwrap();
        println!("{workers} workers, {network}, predicted in {:?}\n{}", start.elapsed(), table(&all));
    }
}
