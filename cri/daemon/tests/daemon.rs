//! The daemon from outside: its command line, its refusals, its start and its drain.

#![allow(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_windlassd");

/// A daemon on temporary folders, killed when the test ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    /// Starts one and waits until it says that it is ready.
    fn start(folder: &Path, state: &str) -> Self {
        let (daemon, systemd) = Self::start_noticed(folder, state, None);
        assert_eq!(notice(&systemd), "READY=1");
        daemon
    }

    /// Starts one, and gives the socket on which it tells how it fares.
    fn start_noticed(folder: &Path, state: &str, watchdog: Option<&str>) -> (Self, UnixDatagram) {
        let path = folder.join("notify");
        let _ = fs::remove_file(&path);
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // Nobody reads its log: a full pipe would stop it.
        let mut daemon = command(folder, state);
        daemon.env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
        if let Some(micros) = watchdog {
            daemon.env("WATCHDOG_USEC", micros);
        }
        (Self(daemon.spawn().unwrap()), systemd)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end, but not for ever.
    fn ended(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

/// The daemon with `<folder>/root` and `<folder>/<state>`, and a shim's name on its search path: it starts none here.
fn command(folder: &Path, state: &str) -> Command {
    configured(folder, state, Path::new("/dev/null"))
}

fn configured(folder: &Path, state: &str, file: &Path) -> Command {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("containerd-shim-windlass-v1"), "").unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(BINARY);
    command
        .arg("--config")
        .arg(file)
        .arg("--root")
        .arg(folder.join("root"))
        .arg("--state")
        .arg(folder.join(state))
        .env("PATH", path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn notice(systemd: &UnixDatagram) -> String {
    let mut buffer = [0; 64];
    let length = systemd.recv(&mut buffer).unwrap();
    text(&buffer[..length])
}

#[test]
fn the_default_is_valid_and_the_flags_win() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config.toml");
    let default = run(&["config", "default"]);
    assert!(default.status.success());
    fs::write(&file, &default.stdout).unwrap();
    let file = file.to_str().unwrap();
    assert!(run(&["--config", file, "config", "check"]).status.success());
    let dump = run(&["config", "dump", "--config", file, "--root", "/elsewhere"]);
    assert!(dump.status.success());
    assert!(text(&dump.stdout).contains("root = \"/elsewhere\""), "{}", text(&dump.stdout));
    assert!(text(&dump.stdout).contains("/run/windlass/windlass.sock"));
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "version = 1\n[cri]\nsnapshoter = \"overlay\"\n").unwrap();
    for arguments in [&["config", "check"][..], &["config", "dump"], &[]] {
        let output = run(&[&["--config", file.to_str().unwrap()], arguments].concat());
        assert!(!output.status.success());
        let said = text(&output.stderr);
        assert!(said.contains("line 3") && said.contains("snapshoter"), "{said}");
    }
    let missing = run(&["--config", "/nonexistent/config.toml", "config", "check"]);
    assert!(!missing.status.success());
}

#[test]
fn a_second_daemon_is_refused() {
    let folder = TempDir::new().unwrap();
    let _first = Daemon::start(folder.path(), "state");
    let socket = folder.path().join("state/windlass.sock");

    let same = command(folder.path(), "state").output().unwrap();
    assert!(!same.status.success());
    assert!(text(&same.stderr).contains("another daemon listens"), "{}", text(&same.stderr));

    let same_root = command(folder.path(), "other").output().unwrap();
    assert!(!same_root.status.success());
    assert!(text(&same_root.stderr).contains("another"), "{}", text(&same_root.stderr));
    UnixStream::connect(&socket).unwrap();
}

#[test]
fn it_tells_systemd_and_stops_in_order() {
    let folder = TempDir::new().unwrap();
    let (mut daemon, systemd) = Daemon::start_noticed(folder.path(), "state", None);
    assert_eq!(notice(&systemd), "READY=1");
    let socket = folder.path().join("state/windlass.sock");
    // A caller that stays connected and says nothing does not hold the stop up for long.
    let _idle = UnixStream::connect(&socket).unwrap();
    daemon.signal("TERM");
    assert_eq!(notice(&systemd), "STOPPING=1");
    assert!(daemon.ended(Duration::from_secs(15)).unwrap().success());
    assert!(!socket.exists());
    // The root is free again.
    let mut again = Daemon::start(folder.path(), "state");
    again.signal("INT");
    assert!(again.ended(Duration::from_secs(15)).unwrap().success());
}

#[test]
fn a_watchdog_hears_that_the_daemon_answers() {
    let folder = TempDir::new().unwrap();
    let (daemon, systemd) = Daemon::start_noticed(folder.path(), "state", Some("2000000"));
    assert_eq!(notice(&systemd), "READY=1");
    for _ in 0..3 {
        assert_eq!(notice(&systemd), "WATCHDOG=1");
    }
    // A daemon that cannot answer says nothing, which is what systemd waits for.
    daemon.signal("STOP");
    systemd.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(systemd.recv(&mut [0; 64]).is_err());
    daemon.signal("CONT");
    assert_eq!(notice(&systemd), "WATCHDOG=1");
}

#[test]
fn its_configuration_is_read_again() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config.toml");
    let log = folder.path().join("log");
    let said = |text: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(&log).unwrap().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in {}", fs::read_to_string(&log).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    fs::write(&file, "version = 1\n").unwrap();
    let mut daemon = configured(folder.path(), "state", &file);
    daemon.stderr(fs::File::create(&log).unwrap());
    let daemon = Daemon(daemon.spawn().unwrap());
    said("windlassd is ready");
    fs::write(&file, "[cri]\npinned_images = [\"quay.io/*\"]\n").unwrap();
    daemon.signal("HUP");
    said("the configuration was read again\n");
    fs::write(&file, "[cri]\npinned_images = [\"*\"]\n").unwrap();
    daemon.signal("HUP");
    said("the configuration stays as it was");
    fs::write(&file, "[cri]\nsnapshotter = \"native\"\n").unwrap();
    daemon.signal("HUP");
    said("needs a restart");
}

#[test]
fn a_killed_daemon_leaves_nothing_in_the_way() {
    let folder = TempDir::new().unwrap();
    let mut first = Daemon::start(folder.path(), "state");
    let socket = folder.path().join("state/windlass.sock");
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    assert!(socket.exists(), "nobody removed it");
    let mut second = Daemon::start(folder.path(), "state");
    assert!(second.ended(Duration::from_millis(300)).is_none());
}
