//! A manifest or an index from a registry.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = windlass_engine::images::Document::parse(bytes, "");
});
