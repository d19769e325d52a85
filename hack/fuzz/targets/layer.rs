//! A layer from a registry: decompressor, tar reader, and what is done on disk.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = std::env::temp_dir().join(format!("windlass-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder to unpack into");
    windlass_engine::fuzzing::layer(bytes, &folder);
    std::fs::remove_dir_all(&folder).expect("nothing in it can stay");
});
