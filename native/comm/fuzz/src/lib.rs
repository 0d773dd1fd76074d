//! What holds of any bytes that a worker reads from others, and of any text that names a strategy: each check takes the bytes from a
//! fuzzer and panics where they show a fault. `tests/it/untrusted.rs` runs the same over bytes that it draws.

use bytes::Bytes;
use firesteel_comm::collective::Algorithm;
use firesteel_comm::compress::{
    Bf16, Compressor, Fp16, Indices, MinMaxU8, Natural, OneBit, Place, Plain, Qsgd, RandomK, Shrink, Sign,
    SignVote, SketchMl, TernGrad, Threshold, TopK,
};
use firesteel_comm::reduce::{
    self, AdamConfig, AllReduce, Dgc, Feedback, FetchSgd, GTopK, LinearSum, OkTopK, OneBitAdam, PowerSgd,
    QAdam, Reduce, TwoPhase,
};
use firesteel_comm::sparse::{self, Dense, Parallax, Rows, S2, SumRows, Table, Union};
use firesteel_comm::strategy::Spec;
use firesteel_comm::untrusted::{self, HEADER};
use firesteel_comm::{Fabric, Key, Options, local_world};
use firesteel_error::{Kind, Result};

/// What a peer may announce; `make fuzz` ends a target that allocates more at once than libFuzzer is told.
fn limits() -> Options {
    Options { max_frame: 256, max_part: 4_096, ..Options::default() }
}

/// A connection takes any bytes, however they are cut: a head that is read is one that is written, announces no more than the limits,
/// and as many parts arrive as there are heads at most. Who waits hears of a loss, of whatever kind the peer gave, or of a goodbye.
pub fn connections(data: &[u8]) {
    if let Some(first) = data.first_chunk::<HEADER>()
        && let Ok(head) = untrusted::head(first, &limits())
    {
        let written = head.first_chunk().expect("a head is as long as it is");
        assert_eq!(untrusted::head(written, &limits()).expect("what was written is read"), head);
        assert!(u64::from_le_bytes(*head.last_chunk().expect("it ends with a length")) <= 1 << 16);
    }
    let Some((most, bytes)) = data.split_first() else { return };
    let (parts, lost) = untrusted::connection(bytes, usize::from(*most), &limits()).expect("a runtime");
    assert!(parts <= (bytes.len() / HEADER) as u64, "{parts} parts in {} bytes", bytes.len());
    let left = lost.map(|e| e.to_string());
    assert!(left.is_none_or(|text| text.starts_with("rank 0 lost rank 1: ")));
}

/// Words and signs of which specs are made.
const WORDS: &str = "\
    ( ) = , 0 1 -1 0.5 1e9 64 18446744073709551616 nan inf true false 0-1/1-2 3- sharded all_reduce by \
    ring two_phase to from feedback gather linear plain qsgd levels bucket shrink of natural sign top_k \
    ratio indices sketch_ml bins local every hierarchical group inner slow_mo dpsgd topology torus rows \
    davis graph quasi_global quasi_global_adam choco power_sgd fetch_sgd columns dgc fixed order \
    mix_update nesterov first global";

/// Any text is a spec or an error of its caller; a spec is written as it reads, and says of every world whether it suits it.
pub fn specs(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    let text = match how % 2 {
        0 => String::from_utf8_lossy(rest).into_owned(),
        _ => {
            let words: Vec<&str> = WORDS.split(' ').collect();
            rest.iter().map(|byte| words[usize::from(*byte) % words.len()]).collect()
        }
    };
    let spec = match text.parse::<Spec>() {
        Ok(spec) => spec,
        Err(e) => return assert_eq!(e.kind(), Kind::InvalidArgument, "'{text}': {e}"),
    };
    assert_eq!(spec.to_string().parse::<Spec>().expect("what it says of itself is a spec"), spec, "'{text}'");
    for world in [1, 2, 3, 8, 32] {
        let kind = spec.check(world).map_err(|e| e.kind());
        assert!(kind.is_ok() || kind == Err(Kind::InvalidArgument), "{spec} among {world}: {kind:?}");
    }
}

/// One of each compressor.
pub fn all_compressors() -> Vec<Box<dyn Compressor>> {
    let made = || -> Result<Vec<Box<dyn Compressor>>> {
        Ok(vec![
            Box::new(Plain),
            Box::new(Fp16),
            Box::new(Bf16),
            Box::new(MinMaxU8),
            Box::new(Natural),
            Box::new(Qsgd::new(3, 16)?),
            Box::new(Qsgd::new(255, 512)?),
            Box::new(TernGrad::new(Some(2.5))?),
            Box::new(Sign),
            Box::new(SignVote),
            Box::new(OneBit),
            Box::new(TopK::new(0.1, Indices::Fixed)?),
            Box::new(TopK::new(0.3, Indices::Shortest)?),
            Box::new(RandomK::new(0.2)?),
            Box::new(Threshold::new(0.5, Indices::Fixed)?),
            Box::new(Threshold::new(0.5, Indices::Shortest)?),
            Box::new(SketchMl::new(16)?),
            Box::new(Shrink::new(Box::new(Natural))?),
        ])
    };
    made().expect("all arguments are in their ranges")
}

/// A number below `below` from the next two bytes; 0 where there are none.
fn number(data: &mut &[u8], below: usize) -> usize {
    let Some((two, rest)) = data.split_first_chunk() else { return 0 };
    *data = rest;
    usize::from(u16::from_le_bytes(*two)) % below
}

/// A decoder takes any payload: it says that it is corrupt, or overwrites every value, alike each time.
pub fn compressors(mut data: &[u8]) {
    let compressors = all_compressors();
    let compressor = &compressors[number(&mut data, compressors.len())];
    let (len, how) = (number(&mut data, 600), number(&mut data, 3));
    let at = Place { seed: 1, key: Key::new(2, 3, 0), rank: 1, part: 0 };
    let mut payload = data.to_vec();
    match how {
        // As long as it should be.
        0 => payload.resize(compressor.bytes(len).unwrap_or(data.len()), 0),
        // Nearly what it should be.
        1 => {
            let values: Vec<f32> = (0..len).map(|i| (i % 17) as f32 - 8.0).collect();
            let encoded = compressor.encode(&values, &at).expect("small numbers are encoded");
            payload = encoded.to_vec();
            for place in data.chunks_exact(3) {
                let last = payload.len().max(1) - 1;
                let byte = usize::from(u16::from_le_bytes([place[0], place[1]])).min(last);
                payload.iter_mut().skip(byte).take(1).for_each(|byte| *byte ^= place[2]);
            }
        }
        _ => {}
    }
    let decoded = |before: f32| -> Option<Vec<u32>> {
        let mut out = vec![before; len];
        match compressor.decode(&payload, &at, &mut out) {
            Ok(()) => Some(out.into_iter().map(f32::to_bits).collect()),
            Err(e) => {
                assert_eq!(e.kind(), Kind::Corrupt, "{compressor:?}: {e}");
                None
            }
        }
    };
    assert_eq!(decoded(0.0), decoded(1.0), "{compressor:?} of {len}");
}

/// The values of a vector, and the rows of a table of [`DIMS`] each.
const LEN: usize = 24;
const DIMS: usize = 2;

type Sum = Box<dyn Fn(&dyn Fabric) -> Result<()>>;

/// A sum over all workers by each reduction.
fn all_sums() -> Vec<Sum> {
    fn of<R: Reduce + 'static>(make: impl Fn() -> Result<R> + 'static) -> Sum {
        Box::new(move |fabric| {
            let mut values: Vec<f32> = (0..LEN).map(|i| i as f32 - 8.0).collect();
            make()?.sum(fabric, Key::new(0, 0, 0), &mut values)
        })
    }
    fn of_rows<R: SumRows + 'static>(make: impl Fn() -> Result<R> + 'static) -> Sum {
        Box::new(move |fabric| {
            let mine = Rows { rows: vec![0, 3, 11], values: vec![1.0; 3 * DIMS] };
            let found = make()?.sum(fabric, Key::new(0, 0, 0), Table::new(LEN / DIMS, DIMS)?, mine)?;
            assert!(found.rows.is_sorted_by(|a, b| a < b), "{found:?}");
            assert!(found.rows.last().is_none_or(|row| (*row as usize) < LEN / DIMS), "{found:?}");
            assert_eq!(found.values.len(), found.rows.len() * DIMS, "{found:?}");
            Ok(())
        })
    }
    let adam = AdamConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, warmup: 1 };
    let top_k = || TopK::new(0.2, Indices::Shortest).map(|made| Box::new(made) as Box<dyn Compressor>);
    let mut sums = vec![
        of(|| TwoPhase::new(Box::new(MinMaxU8), Box::new(OneBit), Feedback::Off, 1)),
        of(move || TwoPhase::new(top_k()?, top_k()?, Feedback::On, 1)),
        of(move || reduce::Gather::new(top_k()?, Feedback::On, 1)),
        of(|| LinearSum::new(Box::new(RandomK::new(0.5)?), Feedback::Off, 1)),
        of(|| Dgc::new(0.2, 0.9, Some(1.0), 0, Indices::Shortest)),
        of(|| GTopK::new(0.2, Indices::Shortest)),
        of(|| OkTopK::new(0.2, Indices::Fixed)),
        of(|| PowerSgd::new(2, [4, 6], 1)),
        of(move || OneBitAdam::new(adam)),
        of(move || QAdam::new(adam)),
        of(|| FetchSgd::new([3, 5], 0.2, 0.0, 1)),
        of_rows(|| Ok(sparse::Gather)),
        of_rows(|| Ok(Union)),
        of_rows(|| Ok(Dense)),
        of_rows(|| Ok(Parallax)),
        of_rows(|| S2::new(3, 0.3, Feedback::On, 1)),
    ];
    sums.extend(Algorithm::ALL.map(|algorithm| of(move || Ok(AllReduce::new(algorithm)))));
    sums
}

/// The next message of a peer: its length in a byte, and as much of it as there is.
fn message(data: &mut &[u8]) -> Bytes {
    let Some((len, rest)) = data.split_first() else { return Bytes::new() };
    let (message, rest) = rest.split_at(usize::from(*len).min(rest.len()));
    *data = rest;
    Bytes::copy_from_slice(message)
}

/// How many phases peers answer.
const PHASES: u16 = 8;

/// A sum takes whatever peers send: it ends with an error or a sum, of rows that the table has.
pub fn sums(mut data: &[u8]) {
    let sums = all_sums();
    let sum = &sums[number(&mut data, sums.len())];
    let (world, me) = (2 + number(&mut data, 3), number(&mut data, 4));
    let me = me % world;
    let mut meshes = local_world(world, &limits()).expect("a world of some workers");
    for phase in 0..PHASES {
        let (key, said) = (Key::new(0, 0, phase), message(&mut data));
        for mesh in meshes.iter().filter(|mesh| mesh.rank() != me) {
            // What they wait for themselves nobody sends.
            _ = mesh.shuffle(key, vec![said.clone(); world]);
            _ = mesh.broadcast(key, said.clone());
            _ = mesh.exchange(key, vec![(me, said.clone())], &[]);
        }
    }
    let mine = meshes.swap_remove(me);
    // They leave, so that a wait for more ends at once.
    drop(meshes);
    if let Err(e) = sum(&mine) {
        let expected = [Kind::Corrupt, Kind::PeerLost, Kind::Diverged, Kind::InvalidArgument];
        assert!(expected.contains(&e.kind()), "{:?}: {e}", e.kind());
    }
}
