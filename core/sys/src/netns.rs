//! Network namespaces that outlive the thread that made them: made on a thread of their own, pinned by a bind mount.
//!
//! A network namespace lives as long as a process, a descriptor or a mount refers to it. [`create`] binds the new
//! namespace over a plain file (`<state>/netns/<id>`), as `ip netns` does, so that a path is all that plugins and shims
//! need. The kernel gives each new namespace a loopback device with the interface index 1, which is down; it is brought
//! up here with one rtnetlink message, so no `loopback` plugin has to run for each pod.
//!
//! Entering a namespace changes the calling thread only. Every function here does it on a thread that ends afterwards:
//! a thread of a pool would carry the namespace to the next one who uses it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use windlass_model::{Context as _, Error, Result};

/// The interface index of `lo` in every network namespace (the kernel's `LOOPBACK_IFINDEX`).
const LOOPBACK: i32 = 1;

/// `statfs` answers this for a file of the kernel's namespace file system.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Makes a network namespace whose `lo` is up, and pins it at `pin`, a path at which nothing is yet.
///
/// The parent folder is made where it is missing. After an error nothing is left at `pin`.
///
/// # Errors
/// [`windlass_model::Kind::AlreadyExists`] where there is something at `pin`; the kernel's refusal otherwise.
pub fn create(pin: &Path) -> Result<()> {
    let doing = || format!("make the network namespace {}", pin.display());
    make_pin(pin).context(doing)?;
    let made = on_fresh_thread(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        raise_loopback()?;
        // The mount namespace is still the process's own, so the bind mount is seen by everyone.
        bind(Path::new("/proc/thread-self/ns/net"), pin)
    });
    let made = made.and_then(|done| done.map_err(Error::from)).context(doing);
    if made.is_err() {
        // The error that matters is the first one; a file that stays is found by the next sweep.
        let _ = remove(pin);
    }
    made
}

/// Sets `lo` up in the network namespace of the calling thread.
///
/// # Errors
/// The kernel's refusal.
pub fn raise_own() -> Result<()> {
    raise_loopback().context(|| "set lo up".into())
}

/// Pins the namespace `source`, of any kind, at `pin`, a path at which nothing is yet.
pub(crate) fn pin(source: &Path, pin: &Path) -> Result<()> {
    let doing = || format!("pin {} at {}", source.display(), pin.display());
    make_pin(pin).context(doing)?;
    bind(source, pin).inspect_err(|_| drop(remove(pin))).context(doing)
}

/// Sets `lo` up in the network namespace pinned at `pin`.
pub(crate) fn raise(pin: &Path) -> Result<()> {
    enter(pin, raise_loopback)?.context(|| format!("set lo up in {}", pin.display()))
}

fn make_pin(pin: &Path) -> io::Result<()> {
    if let Some(parent) = pin.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().write(true).create_new(true).open(pin).map(drop)
}

fn bind(source: &Path, pin: &Path) -> io::Result<()> {
    nix::mount::mount(Some(source), pin, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(io::Error::from)
}

/// Takes a pin away; the kernel frees the namespace when the last process leaves it. Does nothing where there is no pin.
///
/// # Errors
/// The kernel's refusal to unmount or to unlink.
pub fn remove(pin: &Path) -> Result<()> {
    let doing = || format!("remove the network namespace {}", pin.display());
    loop {
        match nix::mount::umount2(pin, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {} // perhaps one of several that lie on each other
            Err(Errno::EINVAL) => break,
            Err(Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(io::Error::from(error)).context(doing),
        }
    }
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(doing),
        _ => Ok(()),
    }
}

/// True where a namespace is pinned at `pin`; a plain file that outlived its mount, as after a reboot, is none.
pub fn is_pinned(pin: &Path) -> bool {
    // The type's width differs between architectures, its value does not.
    rustix::fs::statfs(pin).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|magic| magic == NSFS_MAGIC))
}

/// Runs `work` inside the network namespace at `path`, on a thread that ends afterwards.
///
/// # Errors
/// Where the namespace cannot be opened or entered, or `work` panics.
pub fn enter<R: Send>(path: &Path, work: impl FnOnce() -> R + Send) -> Result<R> {
    let doing = || format!("enter the network namespace {}", path.display());
    let namespace = fs::File::open(path).context(doing)?;
    let done = on_fresh_thread(|| {
        nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        Ok::<R, io::Error>(work())
    })?;
    done.context(doing)
}

/// Runs `work` to its end on a thread that nobody else will ever use.
fn on_fresh_thread<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work);
        let thread = thread.context(|| "start a thread".into())?;
        thread.join().map_err(|_| Error::internal("a thread in another network namespace panicked"))
    })
}

/// Sets `lo` up in the calling thread's network namespace with `RTM_NEWLINK` (rtnetlink(7)) and waits for the answer.
fn raise_loopback() -> io::Result<()> {
    let socket =
        socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let kernel = NetlinkAddr::new(0, 0);
    socket::sendto(socket.as_raw_fd(), &link_up(LOOPBACK), &kernel, MsgFlags::empty())?;
    let mut answer = [0_u8; 1024];
    let length = socket::recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(answer.get(..length).unwrap_or_default())
}

/// The message "set the interface up": `nlmsghdr`, then `ifinfomsg`.
fn link_up(index: i32) -> [u8; 32] {
    let request = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let up = libc::IFF_UP as u32;
    let mut message = [0; 32];
    message[0..4].copy_from_slice(&32_u32.to_ne_bytes()); // length with this header
    message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&request.to_ne_bytes());
    message[8..12].copy_from_slice(&1_u32.to_ne_bytes()); // sequence; the sender's port, 0, follows
    message[20..24].copy_from_slice(&index.to_ne_bytes()); // after family and type, both unspecified
    message[24..28].copy_from_slice(&up.to_ne_bytes()); // flags
    message[28..32].copy_from_slice(&up.to_ne_bytes()); // which of the flags are meant
    message
}

/// Reads `NLMSG_ERROR`, which carries 0 for success or a negative errno.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let rubbish = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink answered with no acknowledgement");
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(kind), Some(0)) if i32::from(kind) == libc::NLMSG_ERROR => Ok(()),
        (Some(kind), Some(code)) if i32::from(kind) == libc::NLMSG_ERROR => {
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        _ => Err(rubbish()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn pin(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("w-netns-{}", std::process::id())).join(name)
    }

    fn own() -> PathBuf {
        fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn a_namespace_is_pinned_with_lo_up_and_goes_away() {
        let pin = pin("whole-life");
        let before = own();
        create(&pin).unwrap();
        assert!(is_pinned(&pin));
        assert_eq!(own(), before, "the calling thread stays where it was");
        let (inside, bound) = enter(&pin, || (own(), std::net::TcpListener::bind("127.0.0.1:0").is_ok())).unwrap();
        assert_ne!(inside, before);
        assert!(bound);
        let connected = enter(&pin, || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            std::net::TcpStream::connect(listener.local_addr().unwrap()).is_ok()
        });
        assert!(connected.unwrap(), "lo is up");
        assert_eq!(own(), before);
        remove(&pin).unwrap();
        assert!(!pin.exists() && !is_pinned(&pin));
        remove(&pin).unwrap();
    }

    #[test]
    fn a_taken_path_is_refused_and_left_alone() {
        let pin = pin("taken");
        fs::create_dir_all(pin.parent().unwrap()).unwrap();
        fs::write(&pin, "mine").unwrap();
        assert_eq!(create(&pin).unwrap_err().kind(), windlass_model::Kind::AlreadyExists);
        assert_eq!(fs::read(&pin).unwrap(), b"mine");
        assert!(!is_pinned(&pin));
        remove(&pin).unwrap();
        assert!(!pin.exists());
    }

    #[test]
    fn stacked_pins_and_missing_folders_are_removed_too() {
        let pin = pin("stacked");
        create(&pin).unwrap();
        nix::mount::mount(Some(Path::new("/proc/self/ns/net")), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap();
        remove(&pin).unwrap();
        assert!(!pin.exists());
        remove(Path::new("/nonexistent/folder/pin")).unwrap();
        assert!(enter(&pin, || ()).unwrap_err().is_not_found());
    }

    #[test]
    fn a_panic_inside_is_an_error_outside() {
        let pin = pin("panic");
        create(&pin).unwrap();
        let result = enter(&pin, || assert!(std::hint::black_box(false), "on purpose"));
        assert_eq!(result.unwrap_err().kind(), windlass_model::Kind::Internal);
        remove(&pin).unwrap();
    }

    #[test]
    fn only_an_acknowledgement_is_success() {
        let mut answer = [0_u8; 20];
        assert!(acknowledged(&answer).is_err());
        answer[4] = libc::NLMSG_ERROR as u8;
        assert!(acknowledged(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(acknowledged(&answer).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(acknowledged(&[]).is_err());
    }
}
