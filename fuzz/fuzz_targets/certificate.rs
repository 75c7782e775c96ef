//! See `lateen_fuzz::certificate`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lateen_fuzz::certificate(data));
