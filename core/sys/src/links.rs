//! What the interfaces of a network namespace have carried, read through a process that lives in it.

use std::fs;

use windlass_model::{Context, Result};

/// One interface's counters since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name in its namespace.
    pub name: String,
    /// What came in.
    pub received: Carried,
    /// What went out.
    pub sent: Carried,
}

/// One direction of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged or could not be handled.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// The interfaces of the network namespace that `pid` lives in, the loopback excepted, in the kernel's order.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`] where the process is gone.
pub fn of_process(pid: u32) -> Result<Vec<Link>> {
    let path = format!("/proc/{pid}/net/dev");
    let text = fs::read_to_string(&path).context(|| format!("read {path}"))?;
    Ok(parse(&text))
}

/// Lines of "eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop …"; others are passed
/// over.
fn parse(text: &str) -> Vec<Link> {
    text.lines().filter_map(link).filter(|link| link.name != "lo").collect()
}

fn link(line: &str) -> Option<Link> {
    let (name, counters) = line.split_once(':')?;
    let numbers: Vec<u64> =
        counters.split_ascii_whitespace().map(|word| word.parse().ok()).take(12).collect::<Option<_>>()?;
    let [bytes, packets, errors, dropped, _, _, _, _, ref sent @ ..] = numbers[..] else { return None };
    let received = Carried { bytes, packets, errors, dropped };
    let [bytes, packets, errors, dropped] = *sent else { return None };
    Some(Link { name: name.trim().to_owned(), received, sent: Carried { bytes, packets, errors, dropped } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop|bytes\n\
            \x20   lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 859 283 1 2 0 0 0 0 171 181 3 4 0 0 0 0\n\
            veth:9 8 7 6 0 0 0 0 5 4 3 2 0 0 0 0\n";
        let links = parse(text);
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["eth0", "veth"]);
        assert_eq!(links[0].received, Carried { bytes: 859, packets: 283, errors: 1, dropped: 2 });
        assert_eq!(links[0].sent, Carried { bytes: 171, packets: 181, errors: 3, dropped: 4 });
    }

    #[test]
    fn odd_lines_are_no_interfaces() {
        for odd in
            ["", ":", "eth0:", "eth0: 1 2 3", "eth0: 1 2 3 4 5 6 7 8 9 10 11", "eth0: a b c d e f g h 1 2 3 4", "x"]
        {
            assert_eq!(parse(odd), [], "{odd:?}");
        }
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        assert!(of_process(u32::MAX).unwrap_err().is_not_found());
        assert!(of_process(std::process::id()).is_ok());
    }
}
