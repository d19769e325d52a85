//! Doors to the parsers of untrusted bytes, for the fuzz targets in `hack/fuzz`; built only with `--cfg fuzzing` and for tests.

use std::path::Path;

use windlass_model::snapshotter::{LayerTarget, Whiteouts};

use crate::images::archive;
use crate::layer::{self, Limits};
use crate::registry;

/// Unpacks `bytes` as a layer into the folder `target`.
pub fn layer(bytes: &[u8], target: &Path) {
    for whiteouts in [Whiteouts::Overlay, Whiteouts::Apply] {
        let target = LayerTarget { path: target.to_owned(), whiteouts };
        let _ = layer::unpack(bytes, "", &target, &Limits { bytes: 1 << 20, ..Limits::default() });
    }
}

/// Reads a `WWW-Authenticate` header.
pub fn challenges(text: &str) {
    let _ = registry::auth::parse_challenges(text);
}

/// Reads a `hosts.toml`.
pub fn hosts(text: &str) {
    let _ = registry::hosts::parse(text, Path::new("/nowhere"), "registry.example:5000");
}

/// Reads the documents of an archive, and what its names lead to.
pub fn archive(bytes: &[u8]) {
    let _ = archive::index(bytes);
    for image in archive::docker(bytes).unwrap_or_default() {
        let _ = archive::plain(image.config.as_bytes());
    }
    let (path, target) = bytes.split_at(bytes.len() / 2);
    if let Ok(path) = archive::plain(path) {
        let leads_out = |plain: String| plain.split('/').any(|part| part == "..");
        assert!(!archive::link(&path, target).is_ok_and(leads_out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the doors true to what they lead to: nothing else builds them but a fuzzer.
    #[test]
    fn every_door_opens() {
        let folder = tempfile::tempdir().unwrap();
        layer(b"no tar", folder.path());
        challenges("Bearer realm=\"x\"");
        hosts("[host.\"http://127.0.0.1\"]");
        archive(b"[{\"Config\":\"../c\",\"Layers\":[]}]");
    }
}
