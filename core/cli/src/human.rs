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
    fn short_ids_keep_whole_short_ones() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789abc");
        assert_eq!(short("pod"), "pod");
    }
}
