//! The option words of fstab, sorted into what mount(2) takes as flags, as propagation and as data.

use rustix::mount::{MountFlags, MountPropagationFlags as Propagation};
use windlass_model::{Error, Result};

/// Options of one mount, sorted.
#[derive(Debug)]
pub(super) struct Options {
    /// Flags to set.
    pub flags: MountFlags,
    /// Flags that an option took away, such as `suid`.
    pub cleared: MountFlags,
    /// A bind mount, and whether with the mounts below its source.
    pub bind: Option<bool>,
    /// How mounts below it spread.
    pub propagation: Option<Propagation>,
    /// What only the file system understands.
    pub data: Vec<String>,
}

impl Options {
    /// Sorts `words` for a mount of type `kind`; the later of two words that contradict each other holds.
    pub fn parse(kind: &str, words: &[String]) -> Result<Self> {
        let bind = match kind {
            "bind" => Some(false),
            "rbind" => Some(true),
            _ => None,
        };
        let mut options = Self {
            flags: MountFlags::empty(),
            cleared: MountFlags::empty(),
            bind,
            propagation: None,
            data: Vec::new(),
        };
        for word in words {
            options.add(word)?;
        }
        Ok(options)
    }

    fn add(&mut self, word: &str) -> Result<()> {
        if let Some((flag, set)) = flag(word) {
            self.flags.set(flag, set);
            self.cleared.set(flag, !set);
        } else if let Some(propagation) = propagation(word) {
            self.propagation = Some(propagation);
        } else {
            match word {
                "" | "defaults" => {}
                "bind" => self.bind = Some(self.bind.unwrap_or(false)),
                "rbind" => self.bind = Some(true),
                "remount" | "loop" | "rro" => {
                    return Err(Error::unimplemented(format!("mount option {word:?}")));
                }
                data if data.contains('\0') => {
                    return Err(Error::invalid("a mount option holds a zero byte"));
                }
                data => self.data.push(data.to_owned()),
            }
        }
        Ok(())
    }
}

/// The flag that `word` sets or takes away.
fn flag(word: &str) -> Option<(MountFlags, bool)> {
    Some(match word {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
        "nomand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        "nolazytime" => (MountFlags::LAZYTIME, false),
        "nosymfollow" => (MountFlags::NOSYMFOLLOW, true),
        "symfollow" => (MountFlags::NOSYMFOLLOW, false),
        "silent" => (MountFlags::SILENT, true),
        "loud" => (MountFlags::SILENT, false),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "private" => Propagation::PRIVATE,
        "rprivate" => Propagation::PRIVATE | Propagation::REC,
        "shared" => Propagation::SHARED,
        "rshared" => Propagation::SHARED | Propagation::REC,
        "slave" => Propagation::DOWNSTREAM,
        "rslave" => Propagation::DOWNSTREAM | Propagation::REC,
        "unbindable" => Propagation::UNBINDABLE,
        "runbindable" => Propagation::UNBINDABLE | Propagation::REC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, words: &[&str]) -> Options {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Options::parse(kind, &words).expect("known words")
    }

    #[test]
    fn words_go_where_the_kernel_wants_them() {
        let options = parse("tmpfs", &["ro", "nosuid", "mode=755", "rslave", "size=64k"]);
        assert_eq!(options.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(options.data, ["mode=755", "size=64k"]);
        assert_eq!(options.propagation, Some(Propagation::DOWNSTREAM | Propagation::REC));
        assert_eq!(options.bind, None);
    }

    #[test]
    fn the_last_of_two_opposites_holds() {
        let options = parse("bind", &["ro", "rw", "rbind"]);
        assert_eq!(options.flags, MountFlags::empty());
        assert_eq!(options.cleared, MountFlags::RDONLY);
        assert_eq!(options.bind, Some(true));
    }
}
