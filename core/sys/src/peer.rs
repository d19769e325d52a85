//! Who is at the other end of a Unix socket.

use std::os::fd::{AsFd, AsRawFd};

use windlass_model::Result;

use crate::errno;

/// The most groups that a process can have (`NGROUPS_MAX`).
const MOST: usize = 65536;

/// The supplementary groups that the peer of a connected Unix socket had when it connected.
///
/// # Errors
/// Where it is no such socket.
pub fn groups(socket: &impl AsFd) -> Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length = u32::try_from(size_of_val(groups.as_slice())).unwrap_or(u32::MAX);
        // JUSTIFICATION: no crate offers SO_PEERGROUPS.
        // SAFETY: `groups` is writable for `length` bytes, and the kernel writes back how many it used.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if answer == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = std::io::Error::last_os_error();
        // The kernel says how much room it wants.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > MOST {
            return Err(errno(error, || "ask for a peer's groups".into()));
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_has_the_groups_of_its_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut found = groups(&one).unwrap();
        let mut own: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        found.sort_unstable();
        own.sort_unstable();
        assert_eq!(found, own);
        assert!(groups(&std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
