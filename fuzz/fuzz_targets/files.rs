//! See `lateen_fuzz::files`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lateen_fuzz::files(data));
