//! What fuzzers look for with a nightly compiler and time, `make fuzz`, over a few thousand inputs that are drawn.

use crate::compress::place;

#[path = "../../fuzz/src/lib.rs"]
mod checks;

/// Numbers that lengths, counts, indices and kinds have.
const TELLING: [u8; 12] = [0, 0, 0, 1, 2, 4, 5, 8, 12, 16, 24, 255];

/// Runs a check on bytes of many lengths: any, small ones, and telling ones.
fn check(inputs: u64, check: fn(&[u8])) {
    for input in 0..inputs {
        let draw = place(input, 0).own();
        let len = draw.word(0) % 400;
        let byte = |i: u64| match (input % 3, draw.word(i)) {
            (0, word) => word as u8,
            (1, word) => word as u8 % 6,
            (_, word) => TELLING[word as usize % TELLING.len()],
        };
        check(&(1..=len).map(byte).collect::<Vec<u8>>());
    }
}

#[test]
fn a_connection_takes_any_bytes() {
    check(20_000, checks::connections);
}

#[test]
fn any_text_is_a_strategy_or_an_error() {
    check(20_000, checks::specs);
}

#[test]
fn a_decoder_takes_any_payload() {
    check(50_000, checks::compressors);
}

#[test]
fn a_sum_takes_any_parts() {
    check(20_000, checks::sums);
}
