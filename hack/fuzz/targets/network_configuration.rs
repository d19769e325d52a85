//! A network's configuration and the template of one.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_cri::fuzzing::network_configuration(bytes));
