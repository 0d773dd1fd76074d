//! What fuzzers look for with a nightly compiler and time, `make fuzz`, over a few thousand inputs that are drawn.

use crate::compress::place;

#[path = "../../fuzz/src/lib.rs"]
mod checks;

/// Runs a check on bytes of many lengths: even ones, and ones of which most are small, as counts, lengths and kinds are.
fn check(inputs: u64, check: fn(&[u8])) {
    for input in 0..inputs {
        let draw = place(input, 0).own();
        let len = draw.word(0) % 400;
        let byte = |i: u64| match draw.word(i) {
            word if input % 2 == 0 || word.is_multiple_of(5) => (word >> 8) as u8,
            word => (word >> 8) as u8 % 6,
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
    check(5_000, checks::sums);
}
