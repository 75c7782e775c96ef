//! See `lateen_fuzz::csr`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lateen_fuzz::csr(data));
