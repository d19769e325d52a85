//! What a network plugin answers to ADD.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_cri::fuzzing::network_result(bytes));
