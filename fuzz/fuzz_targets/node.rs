//! See `lateen_fuzz::node`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lateen_fuzz::node(data));
