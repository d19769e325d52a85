//! The log's format under every way of cutting the input, and under a full disk.

use super::*;

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("w-log-{name}-{}", std::process::id()))
}

/// A cheap deterministic generator: the tests need variety, not randomness.
fn next(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

/// What the log says, as (stream, text) with pieces joined.
fn parse(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    assert!(text.is_empty() || text.ends_with(b"\n"), "torn end");
    let mut lines = Vec::new();
    let mut open: Option<(String, Vec<u8>)> = None;
    for entry in text.split(|byte| *byte == b'\n').filter(|entry| !entry.is_empty()) {
        let mut parts = entry.splitn(4, |byte| *byte == b' ');
        let time = parts.next().unwrap();
        assert_eq!((time.len(), time[29]), (30, b'Z'));
        let stream = String::from_utf8(parts.next().unwrap().to_vec()).unwrap();
        let mark = parts.next().unwrap();
        let (_, mut line) = open.take().unwrap_or((stream.clone(), Vec::new()));
        line.extend_from_slice(parts.next().unwrap());
        match mark {
            b"F" => lines.push((stream, line)),
            b"P" => open = Some((stream, line)),
            other => panic!("mark {other:?}"),
        }
    }
    assert!(open.is_none(), "a piece without its end");
    lines
}

#[test]
fn lines_survive_every_cut() {
    let path = path("cuts");
    let mut seed = 7;
    for max_line in [1, 2, 7, 100, 16 * 1024] {
        let mut expected = Vec::new();
        let mut input = Vec::new();
        for _ in 0..200 {
            let line: Vec<u8> = (0..next(&mut seed) % 300).map(|place| b'a' + (place % 26) as u8).collect();
            input.extend_from_slice(&line);
            input.push(b'\n');
            expected.push(("stdout".to_owned(), line));
        }
        input.extend_from_slice(b"no end");
        expected.push(("stdout".to_owned(), b"no end".to_vec()));

        std::fs::remove_file(&path).ok();
        let mut log = Log::open(&path).unwrap();
        let mut lines = Lines::new(Stream::Stdout, max_line);
        let mut rest = &input[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + next(&mut seed) % 500).min(rest.len()));
            lines.feed(piece, Timestamp::now(), &mut log);
            rest = after;
        }
        lines.finish(Timestamp::now(), &mut log);
        assert_eq!(parse(&std::fs::read(&path).unwrap()), expected, "cut at {max_line}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_line_of_exactly_the_limit_is_one_entry() {
    let path = path("limit");
    let mut log = Log::open(&path).unwrap();
    let mut lines = Lines::new(Stream::Stderr, 4);
    lines.feed(b"abcd\nabcde\n\n", Timestamp(0), &mut log);
    let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let time = "1970-01-01T00:00:00.000000000Z stderr";
    assert_eq!(text, format!("{time} F abcd\n{time} P abcd\n{time} F e\n{time} F \n"));
}

#[test]
fn many_short_lines_are_written_in_batches_without_loss() {
    let path = path("batches");
    let mut log = Log::open(&path).unwrap();
    let mut lines = Lines::new(Stream::Stdout, 100);
    lines.feed(&b"\n".repeat(60_000), Timestamp(1), &mut log);
    let text = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(parse(&text).len(), 60_000);
}

#[test]
fn a_full_disk_drops_whole_entries_and_says_so_later() {
    // /dev/full takes nothing at all.
    let mut log = Log::open(Path::new("/dev/full")).unwrap();
    let mut lines = Lines::new(Stream::Stdout, 100);
    lines.feed(b"one\ntwo\n", Timestamp(0), &mut log);
    assert_eq!(log.lost, 2);
    let path = path("full");
    log.path = path.clone();
    log.reopen().unwrap();
    lines.feed(b"three\n", Timestamp(0), &mut log);
    let found = parse(&std::fs::read(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(found.len(), 2);
    assert!(String::from_utf8_lossy(&found[0].1).starts_with("windlass: 2 log entries were lost: No space left"));
    assert_eq!(found[1].1, b"three");
}

#[test]
fn times_are_those_of_the_calendar() {
    let shown = |at: i64| String::from_utf8(rfc3339(Timestamp(at)).to_vec()).unwrap();
    assert_eq!(shown(0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(shown(951_827_696_000_000_001), "2000-02-29T12:34:56.000000001Z");
    assert_eq!(shown(1_709_251_199_999_999_999), "2024-02-29T23:59:59.999999999Z");
    assert_eq!(shown(4_107_542_399_000_000_000), "2100-02-28T23:59:59.000000000Z");
    assert_eq!(shown(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000000000Z");
}
