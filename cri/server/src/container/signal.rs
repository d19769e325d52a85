//! Signals in three tongues: the CRI's enum, the names in images, the kernel's numbers.

use windlass_cri_api::v1;

/// `SIGTERM`: what ends a container unless somebody says otherwise.
pub(crate) const TERM: u32 = 15;
/// `SIGKILL`.
pub(crate) const KILL: u32 = 9;
/// The first and the last signal that programs may use as they like, as the C library counts.
const REAL_TIME: (u32, u32) = (34, 64);

const NAMES: [(&str, u32); 35] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", REAL_TIME.0),
];

/// The number of a signal as images write it: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`; `None` where it is none.
pub(crate) fn parse(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=REAL_TIME.1).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    // The CRI writes PLUS and MINUS, images write signs.
    let after = |names: [&str; 2]| names.iter().find_map(|start| name.strip_prefix(start)?.parse::<u32>().ok());
    match (after(["RTMIN+", "RTMINPLUS"]), after(["RTMAX-", "RTMAXMINUS"]), name) {
        (Some(plus @ ..=30), _, _) => Some(REAL_TIME.0 + plus),
        (_, Some(minus @ ..=30), _) => Some(REAL_TIME.1 - minus),
        (_, _, "RTMAX") => Some(REAL_TIME.1),
        _ => None,
    }
}

/// The number of the CRI's word; `None` for "the runtime's default".
pub(crate) fn number(signal: v1::Signal) -> Option<u32> {
    parse(signal.as_str_name())
}

/// The CRI's word for a number; of two names for one number the commoner.
pub(crate) fn word(number: u32) -> v1::Signal {
    let rare = [v1::Signal::Sigcld, v1::Signal::Sigiot, v1::Signal::Sigpoll];
    let all = (1..=v1::Signal::Sigrtmax as i32).filter_map(|value| v1::Signal::try_from(value).ok());
    all.filter(|signal| !rare.contains(signal))
        .find(|signal| self::number(*signal) == Some(number))
        .unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_cri_has_a_number_and_a_way_back() {
        for value in 1..=65 {
            let signal = v1::Signal::try_from(value).unwrap();
            let number = number(signal).unwrap_or_else(|| panic!("{signal:?}"));
            assert_eq!(self::number(word(number)), Some(number));
        }
        assert_eq!(number(v1::Signal::RuntimeDefault), None);
        assert_eq!(number(v1::Signal::Sigrtminplus3), Some(37));
        assert_eq!(word(TERM), v1::Signal::Sigterm);
        assert_eq!(word(17), v1::Signal::Sigchld);
    }

    #[test]
    fn images_write_signals_in_many_ways() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("0", None),
            ("65", None),
            ("SIGNONSENSE", None),
            ("RTMIN+99", None),
            ("", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
    }
}
