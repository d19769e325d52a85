//! A hosts.toml file.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| windlass_engine::fuzzing::hosts(text));
