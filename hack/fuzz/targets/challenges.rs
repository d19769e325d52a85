//! A WWW-Authenticate header from a registry.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| windlass_engine::fuzzing::challenges(text));
