//! See `lateen_fuzz::policy`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lateen_fuzz::policy(data));
