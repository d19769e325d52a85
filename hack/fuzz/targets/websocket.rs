//! A WebSocket connection of exec, attach or port-forward.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| windlass_cri::fuzzing::websocket(bytes));
