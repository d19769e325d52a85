//! What a shim prints at its start, and an entry of its outbox.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = windlass_wire::outbox::decode(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = windlass_wire::bootstrap::Bootstrap::parse(text);
    }
});
