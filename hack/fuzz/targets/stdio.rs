//! A stdio URI of a task.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = text.parse::<windlass_wire::Stdio>();
});
