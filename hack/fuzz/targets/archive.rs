//! An archive of images: its index, Docker's manifest, and the names in it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| windlass_engine::fuzzing::archive(bytes));
