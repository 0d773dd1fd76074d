#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| firesteel_comm_fuzz::sums(data));
