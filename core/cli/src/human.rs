//! Numbers and moments as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes with three digits and a decimal unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would round to 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Bytes from text: a number and, where it is not of bytes, `k`, `M`, `G` or `T` for powers of 1000, with an `i` for
/// powers of 1024; a `B` at the end changes nothing.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let plain = text.strip_suffix(['b', 'B']).unwrap_or(text);
    let (plain, base) = match plain.strip_suffix('i') {
        Some(plain) => (plain, 1024_u64),
        None => (plain, 1000),
    };
    let (digits, power) = match plain.char_indices().next_back() {
        Some((at, unit)) if !unit.is_ascii_digit() => {
            (&plain[..at], "kmgt".find(unit.to_ascii_lowercase()).map(|at| at + 1))
        }
        _ => (plain, (base == 1000).then_some(0)),
    };
    let scale = power.and_then(|power| base.checked_pow(u32::try_from(power).ok()?));
    let count = digits.parse::<u64>().ok().zip(scale).and_then(|(count, scale)| count.checked_mul(scale));
    count.ok_or_else(|| format!("{text:?} is no size; one is written 1000000, 512k, 64Mi or 2G"))
}

/// A span of time from text: a number and `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let table = [('s', 1), ('m', 60), ('h', 3600), ('d', 86400)];
    let found = table.into_iter().find_map(|(unit, length)| Some((text.strip_suffix(unit)?, length)));
    let seconds = found.and_then(|(digits, length)| digits.parse::<u64>().ok()?.checked_mul(length));
    // A moment that far ahead can still be told.
    let seconds = seconds.filter(|seconds| *seconds <= 100 * 365 * 86400);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is no span of time; one is written 90s, 30m, 24h or 7d"))
}

/// How long ago a moment was, in its largest unit; `-` where it was not.
pub(crate) fn age(nanos: i64) -> String {
    let Ok(nanos @ 1..) = u64::try_from(nanos) else { return "-".into() };
    let then = UNIX_EPOCH + Duration::from_nanos(nanos);
    // A clock set back makes the past lie ahead.
    span(SystemTime::now().duration_since(then).unwrap_or_default().as_secs())
}

fn span(seconds: u64) -> String {
    let table = [(86400 * 365, "year"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let found = table.into_iter().find(|(length, _)| seconds >= *length);
    let (length, unit) = found.unwrap_or((1, "second"));
    let count = seconds / length;
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// Nanoseconds since 1970 of a moment on the wire; 0 where it did not happen.
pub(crate) fn nanos(moment: Option<&prost_types::Timestamp>) -> i64 {
    moment.map_or(0, |moment| windlass_model::Timestamp::from_parts(moment.seconds, moment.nanos).nanos())
}

/// A moment on the wire as RFC 3339 writes it; empty where it did not happen.
pub(crate) fn moment(moment: Option<&prost_types::Timestamp>) -> String {
    moment.filter(|moment| moment.seconds != 0 || moment.nanos != 0).map(ToString::to_string).unwrap_or_default()
}

/// A digest or id cut to what tells it from others.
pub(crate) fn short(id: &str) -> &str {
    const DIGITS: usize = 13;
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..DIGITS).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_999, "10.0 kB"),
            (65_536, "65.5 kB"),
            (999_600, "1.00 MB"),
            (123_456_789, "123 MB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        let cases = [(0, "0 seconds ago"), (1, "1 second ago"), (119, "1 minute ago"), (7200, "2 hours ago")];
        for (seconds, text) in cases {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(age(0), "-");
        assert_eq!(age(i64::MAX), "0 seconds ago");
    }

    #[test]
    fn sizes_are_read_in_both_bases() {
        for (text, count) in [
            ("0", 0),
            ("1000", 1000),
            ("5B", 5),
            ("2k", 2000),
            ("2KiB", 2048),
            ("64Mi", 64 << 20),
            ("1gb", 1_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(count), "{text}");
        }
        for text in ["", "M", "1i", "-1", "1x", "1.5G", "ä", "99999999999T"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_read() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for text in ["", "1", "h", "-1s", "1w", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn short_ids_keep_whole_short_ones() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789abc");
        assert_eq!(short("pod"), "pod");
    }
}
