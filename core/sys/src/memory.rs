//! What this process keeps of the memory that it once used.
//!
//! A server's start touches much that it never needs again: code that reads flags and configuration, tables by which the
//! linker moved the program to its address, the start of libraries. And glibc keeps what was freed, in an arena for each
//! thread. Both can be given back.

use std::fs;

use windlass_model::{Context, Result};

use crate::errno;

/// From how many freed bytes on the end of a heap goes back to the kernel, and how long a piece of memory must be to get
/// pages of its own. Saying them also keeps glibc from raising them with the first large piece that is freed.
const LARGE: libc::c_int = 128 * 1024;

/// A mapping with the sums that the kernel tells of it.
#[derive(Debug, Default)]
struct Mapping {
    from: usize,
    length: usize,
    /// A private mapping of a file that cannot be written now.
    constant: bool,
    /// Pages that are not the file's: they were written to, before the mapping was made read-only.
    written: bool,
}

/// Has glibc share `arenas` heaps among all threads, and give freed memory back early. To be called before there are
/// threads; does nothing with another library of C.
pub fn share_heaps(arenas: i32) {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, arenas), (libc::M_TRIM_THRESHOLD, LARGE), (libc::M_MMAP_THRESHOLD, LARGE)]
    {
        // JUSTIFICATION: glibc's parameters can be set by this call or from outside only.
        // SAFETY: mallopt takes two integers and refuses those that it does not know.
        unsafe { libc::mallopt(parameter, value) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}

/// Gives back freed memory, and unmaps the pages of the program and its libraries. What of them is still needed is mapped
/// again as it is used; the rest is for the kernel to take where it is short of memory.
///
/// # Errors
/// Where the list of mappings cannot be read, or the kernel refuses.
pub fn forget_start() -> Result<()> {
    let doing = || "give back the memory of the start".to_owned();
    for (from, length) in unwritten(&fs::read_to_string("/proc/self/smaps").context(doing)?) {
        // JUSTIFICATION: it is the only way to unmap pages of a file and keep the mapping.
        // SAFETY: the range is a private mapping of a file that was never written to, see `unwritten`, so that it reads
        // as before: what is called there is mapped again, as at its first call.
        let refused = unsafe { libc::madvise(std::ptr::without_provenance_mut(from), length, libc::MADV_DONTNEED) };
        if refused != 0 {
            return Err(errno(std::io::Error::last_os_error(), doing));
        }
    }
    // JUSTIFICATION: only glibc knows what of its heaps is free.
    // SAFETY: malloc_trim takes one integer, locks what it works on and frees nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
    Ok(())
}

/// The mappings in `smaps`, the text of `/proc/self/smaps`, whose pages are those of a file. Start and length.
fn unwritten(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut mapping = Mapping::default();
    for line in smaps.lines() {
        match line.split_once(':') {
            Some(("Anonymous" | "Swap", sum)) => mapping.written |= sum.trim() != "0 kB",
            // The last line of each.
            Some(("VmFlags", _)) if mapping.constant && !mapping.written => {
                found.push((mapping.from, mapping.length));
            }
            _ => mapping = Mapping::parse(line).unwrap_or(mapping),
        }
    }
    found
}

impl Mapping {
    /// Reads the first line of a mapping; nothing for another line.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        let access = words.next()?;
        let path = words.nth(3).unwrap_or_default();
        Some(Self {
            from,
            length: to.checked_sub(from)?,
            constant: path.starts_with('/') && matches!(access, "r-xp" | "r--p"),
            written: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_forgotten() {
        let smaps = "\
5642ff4a9000-5642ffc20000 r--p 00000000 fe:00 1234   /usr/bin/windlassd
Size:               7644 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
5642ffc21000-5642ffc24000 r-xp 00777000 fe:00 1234   /usr/bin/a name: with more
Anonymous:             0 kB
VmFlags: rd ex mr mw me
5643012de000-564301397000 r--p 01e33000 fe:00 1234   /usr/bin/windlassd
Anonymous:           740 kB
Swap:                  0 kB
VmFlags: rd mr mw me ac
564301397000-56430139c000 r--p 01e33000 fe:00 1234   /usr/bin/windlassd
Anonymous:             0 kB
Swap:                  4 kB
VmFlags: rd mr mw me ac
56430139c000-56430139d000 rw-p 01eec000 fe:00 1234   /usr/bin/windlassd
Anonymous:             0 kB
VmFlags: rd wr mr mw me ac
5643abebe000-5643abf84000 r--p 00000000 00:00 0      [heap]
Anonymous:             0 kB
VmFlags: rd mr mw me ac
7f42e406c000-7f42e8000000 r--s 00000000 fe:00 77     /var/cache/shared
Anonymous:             0 kB
VmFlags: rd sh mr mw me ms
rubbish
";
        assert_eq!(unwritten(smaps), [(0x5642_ff4a_9000, 0x77_7000), (0x5642_ffc2_1000, 0x3000)]);
    }

    #[test]
    fn the_process_goes_on_with_less() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap().to_owned();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        share_heaps(2);
        let before = resident();
        forget_start().unwrap();
        let after = resident();
        assert!(after < before, "{before} KiB before, {after} KiB after");
        assert_eq!((1..100).map(|number| format!("{number}").len()).sum::<usize>(), 189);
    }
}
