//! Doors to the parsers of untrusted bytes, for the fuzz targets in `hack/fuzz`; built only with `--cfg fuzzing` and for tests.

/// Reads `bytes` as they come over a plugin's socket, in two pieces.
pub fn plugin_frames(bytes: &[u8]) {
    crate::nri::fuzz_frames(bytes);
}

/// Serves a SPDY client that says `bytes`.
pub fn spdy(bytes: &[u8]) {
    crate::streaming::fuzzing::spdy(bytes);
}

/// Serves a WebSocket client that says `bytes`.
pub fn websocket(bytes: &[u8]) {
    crate::streaming::fuzzing::websocket(bytes);
}

/// Reads what a network plugin answers to ADD.
pub fn network_result(bytes: &[u8]) {
    crate::network::fuzzing::result(bytes);
}

/// Reads a network's configuration, and a template of one.
pub fn network_configuration(bytes: &[u8]) {
    crate::network::fuzzing::configuration(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the doors true to what they lead to: nothing else builds them but a fuzzer.
    #[test]
    fn every_door_opens() {
        for bytes in
            [&b""[..], b"\x00\x80\x03\x00\x01", b"\x01GET / HTTP/1.1\r\n\r\n", b"\x02\xff\xff", b"\x03{}", b"{}"]
        {
            plugin_frames(bytes);
            spdy(bytes);
            websocket(bytes);
            network_result(bytes);
            network_configuration(bytes);
        }
    }
}
