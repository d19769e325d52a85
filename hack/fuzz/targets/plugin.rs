//! The bytes of a plugin of the Node Resource Interface.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_cri::fuzzing::plugin_frames(bytes));
