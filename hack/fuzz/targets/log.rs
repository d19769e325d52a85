//! What a container writes, cut anywhere, on its way into a CRI log: every byte arrives, no entry is torn or too long.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_model::Timestamp;

// The shim is a program and has no library.
#[allow(dead_code)]
#[path = "../../../shim/src/log.rs"]
mod log;

use log::{Lines, Log, Stream};

/// The first byte says where lines are cut, and each byte that follows in `cuts` where a piece of the input ends.
fn carry(bytes: &[u8]) -> Option<()> {
    let (limit, bytes) = bytes.split_first()?;
    let (count, bytes) = bytes.split_first()?;
    let (cuts, text) = bytes.split_at(usize::from(*count).min(bytes.len()));
    let limit = usize::from(*limit).max(1);
    let path = std::env::temp_dir().join(format!("windlass-fuzz-log-{}", std::process::id()));
    std::fs::remove_file(&path).ok();
    let mut log = Log::open(&path).expect("a log");
    let mut lines = Lines::new(Stream::Stderr, limit);
    let mut rest = text;
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        lines.feed(piece, Timestamp::now(), &mut log);
        rest = after;
    }
    lines.feed(rest, Timestamp::now(), &mut log);
    lines.finish(Timestamp::now(), &mut log);

    let written = std::fs::read(&path).expect("the log");
    let mut read = Vec::new();
    let mut open = false;
    for entry in written.split_inclusive(|byte| *byte == b'\n') {
        let entry = entry.strip_suffix(b"\n").expect("a torn entry");
        assert_eq!(&entry[29..38], b"Z stderr ");
        let piece = &entry[40..];
        assert!(piece.len() <= limit, "a piece of {} bytes with a limit of {limit}", piece.len());
        read.extend_from_slice(piece);
        open = match &entry[38..40] {
            b"P " => true,
            b"F " => false,
            other => panic!("mark {other:?}"),
        };
        if !open {
            read.push(b'\n');
        }
    }
    assert!(!open, "a piece without its end");
    let mut expected = text.to_vec();
    if !text.is_empty() && !text.ends_with(b"\n") {
        expected.push(b'\n');
    }
    assert_eq!(read, expected);
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    carry(bytes);
});
