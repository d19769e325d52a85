//! Tells systemd how the daemon fares: one datagram to `$NOTIFY_SOCKET` for each state (`sd_notify(3)`).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What systemd is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Requests are answered.
    Ready,
    /// The drain began.
    Stopping,
    /// The daemon is well.
    Alive,
}

/// The door to systemd; without `$NOTIFY_SOCKET` every notice goes nowhere.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Finds the socket that systemd named in the environment.
    pub fn from_env() -> Self {
        Self::to(std::env::var_os("NOTIFY_SOCKET"))
    }

    fn to(address: Option<OsString>) -> Self {
        let open = |address: OsString| {
            // A leading '@' stands for the zero byte of an abstract address.
            let address = match address.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(&address)?,
            };
            std::io::Result::Ok((UnixDatagram::unbound()?, address))
        };
        let door = address.filter(|address| !address.is_empty()).and_then(|address| {
            open(address).inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET cannot be used")).ok()
        });
        Self(door)
    }

    /// Sends a notice; a failure is logged, for it is systemd's loss only.
    pub fn send(&self, notice: Notice) {
        let Some((socket, address)) = &self.0 else { return };
        let text = match notice {
            Notice::Ready => "READY=1",
            Notice::Stopping => "STOPPING=1",
            Notice::Alive => "WATCHDOG=1",
        };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::warn!(%error, text, "systemd was not told");
        }
    }
}

/// How often systemd wants to hear that the daemon is well, from its environment (`sd_watchdog_enabled(3)`); `None`: it
/// does not watch this process.
pub fn watchdog() -> Option<Duration> {
    interval(std::env::var("WATCHDOG_USEC").ok()?.as_str(), std::env::var("WATCHDOG_PID").ok().as_deref())
}

fn interval(micros: &str, pid: Option<&str>) -> Option<Duration> {
    let own = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    micros.parse().ok().filter(|micros| own && *micros > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(Some(path.into()));
        notifier.send(Notice::Ready);
        notifier.send(Notice::Stopping);
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }

    #[test]
    fn a_watchdog_is_for_one_process() {
        let own = std::process::id().to_string();
        assert_eq!(interval("2000000", Some(&own)), Some(Duration::from_secs(2)));
        assert_eq!(interval("2000000", None), Some(Duration::from_secs(2)));
        for (micros, pid) in [("2000000", Some("1")), ("0", None), ("soon", None), ("2000000", Some("x"))] {
            assert_eq!(interval(micros, pid), None, "{micros} {pid:?}");
        }
    }

    #[test]
    fn without_systemd_nothing_happens() {
        Notifier::to(None).send(Notice::Ready);
    }
}
