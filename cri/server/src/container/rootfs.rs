//! Reads files of a root file system from its layers, without mounting it.
//!
//! An overlay's layers are searched from the top as the kernel would: a white-out (character device 0:0) or an opaque
//! folder hides what is below it. Links are followed by starting again at the top, so a link may lead into any layer, and
//! never out of the image. Each component is opened by itself, so nothing the image holds can lead outside.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use windlass_model::{Context as _, Error, Mount, Result};

/// How many links a path may lead through.
const MAX_LINKS: usize = 40;
/// The attributes that make a folder of an overlay opaque.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// The folders that make a root file system, topmost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layers(Vec<PathBuf>);

/// What a name is.
enum Found {
    File(OwnedFd),
    Link(PathBuf),
    Other,
    Nothing,
}

impl Layers {
    /// The layers of a snapshot's mounts; `None` where they are not folders to be looked into (another file system).
    pub(crate) fn of(mounts: &[Mount]) -> Option<Self> {
        let [mount] = mounts else { return None };
        match mount.kind.as_str() {
            "bind" => Some(Self(vec![mount.source.clone().into()])),
            "overlay" => {
                let option = |name: &'static str| {
                    mount.options.iter().filter_map(move |option| option.strip_prefix(name)).map(str::to_owned)
                };
                let upper = option("upperdir=").map(PathBuf::from);
                let single = option("lowerdir+=").map(PathBuf::from);
                let joined: Vec<_> = option("lowerdir=")
                    .flat_map(|list| list.split(':').map(PathBuf::from).collect::<Vec<_>>())
                    .collect();
                let layers: Vec<_> = upper.chain(joined).chain(single).collect();
                (!layers.is_empty()).then_some(Self(layers))
            }
            _ => None,
        }
    }

    /// One folder.
    pub(crate) fn at(root: &Path) -> Self {
        Self(vec![root.into()])
    }

    /// The text of the regular file at `path`, at most `limit` bytes of it; empty where there is none.
    ///
    /// # Errors
    /// [`windlass_model::Kind::ResourceExhausted`] for a longer file; what the kernel says otherwise.
    pub(crate) fn read(&self, path: &str, limit: u64) -> Result<String> {
        let doing = || format!("read {path} of the image");
        let Some(file) = self.open(Path::new(path)).context(doing)? else { return Ok(String::new()) };
        let mut bytes = Vec::new();
        File::from(file).take(limit + 1).read_to_end(&mut bytes).context(doing)?;
        if bytes.len() as u64 > limit {
            let kind = windlass_model::Kind::ResourceExhausted;
            return Err(Error::new(kind, format!("{path} of the image is longer than {limit} bytes")));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn open(&self, path: &Path) -> Result<Option<OwnedFd>, std::io::Error> {
        let mut rest: VecDeque<OsString> = names(path);
        let mut walked = PathBuf::new();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                walked.pop();
                continue;
            }
            match self.look_up(&walked.join(&name))? {
                Found::Nothing => return Ok(None),
                Found::File(file) if rest.is_empty() => return Ok(Some(file)),
                Found::File(_) => return Ok(None),
                Found::Other => walked.push(name),
                Found::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        walked = PathBuf::new();
                    }
                    for name in names(&target).into_iter().rev() {
                        rest.push_front(name);
                    }
                }
            }
        }
        Ok(None)
    }

    /// What `path`, whose folders are no links, is in the topmost layer that says something about it.
    fn look_up(&self, path: &Path) -> Result<Found, std::io::Error> {
        'layers: for layer in &self.0 {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut at: OwnedFd = rustix::fs::open(layer, flags | OFlags::DIRECTORY, Mode::empty())?;
            let mut opaque = false;
            let names: Vec<_> = names(path).into();
            for (index, name) in names.iter().enumerate() {
                let next = match rustix::fs::openat(&at, name, flags, Mode::empty()) {
                    Ok(next) => next,
                    Err(Errno::NOENT | Errno::NOTDIR) if opaque => return Ok(Found::Nothing),
                    Err(Errno::NOENT | Errno::NOTDIR) => continue 'layers,
                    Err(error) => return Err(error.into()),
                };
                let stat = rustix::fs::fstat(&next)?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                let last = index + 1 == names.len();
                match kind {
                    FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(Found::Nothing),
                    FileType::Directory if last => return Ok(Found::Other),
                    FileType::Directory => opaque = opaque || is_opaque(&at, name),
                    _ if !last => return Ok(Found::Nothing),
                    FileType::RegularFile => {
                        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                        return Ok(Found::File(rustix::fs::openat(&at, name, flags, Mode::empty())?));
                    }
                    FileType::Symlink => {
                        let target = rustix::fs::readlinkat(&next, c"", Vec::new())?;
                        return Ok(Found::Link(OsString::from_vec(target.into_bytes()).into()));
                    }
                    _ => return Ok(Found::Nothing),
                }
                at = next;
            }
        }
        Ok(Found::Nothing)
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn is_opaque(folder: impl AsFd, name: &OsString) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(opened) = rustix::fs::openat(folder, name, flags, Mode::empty()) else { return false };
    let mut value = [0u8; 1];
    OPAQUE.iter().any(
        |attribute| matches!(rustix::fs::fgetxattr(&opened, *attribute, &mut value[..]), Ok(1) if value[0] == b'y'),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn layers(upper: &Path, lower: &Path) -> Layers {
        let options = vec![
            "index=off".into(),
            format!("lowerdir={}", lower.display()),
            format!("upperdir={}", upper.display()),
            "workdir=/nowhere".into(),
        ];
        Layers::of(&[Mount { kind: "overlay".into(), source: "overlay".into(), options, ..Default::default() }])
            .unwrap()
    }

    #[test]
    fn the_topmost_file_wins_and_links_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let (upper, lower) = (folder.path().join("u"), folder.path().join("l"));
        for layer in [&upper, &lower] {
            fs::create_dir_all(layer.join("etc")).unwrap();
        }
        fs::write(lower.join("etc/passwd"), "low").unwrap();
        fs::write(lower.join("etc/group"), "group").unwrap();
        let layers = layers(&upper, &lower);
        assert_eq!(layers.read("/etc/passwd", 9).unwrap(), "low");
        fs::write(upper.join("etc/passwd"), "high").unwrap();
        assert_eq!(layers.read("/etc/passwd", 9).unwrap(), "high");
        assert!(layers.read("/etc/passwd", 3).is_err());
        fs::remove_file(upper.join("etc/passwd")).unwrap();
        symlink("/etc/group", upper.join("etc/passwd")).unwrap();
        assert_eq!(layers.read("/etc/passwd", 9).unwrap(), "group");
        fs::remove_file(upper.join("etc/passwd")).unwrap();
        symlink("../../../../../etc/passwd", upper.join("etc/passwd")).unwrap();
        assert!(layers.read("/etc/passwd", 9).is_err(), "a link to itself");
        assert_eq!(layers.read("/etc/nothing", 9).unwrap(), "");
        assert_eq!(layers.read("/etc", 9).unwrap(), "");
    }

    #[test]
    fn white_outs_hide_what_is_below() {
        let folder = tempfile::tempdir().unwrap();
        let (upper, lower) = (folder.path().join("u"), folder.path().join("l"));
        fs::create_dir_all(upper.join("etc")).unwrap();
        fs::create_dir_all(lower.join("etc")).unwrap();
        fs::write(lower.join("etc/passwd"), "low").unwrap();
        let layers = layers(&upper, &lower);
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            upper.join("etc/passwd"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0),
            0,
        );
        if made.is_ok() {
            assert_eq!(layers.read("/etc/passwd", 9).unwrap(), "");
            fs::remove_file(upper.join("etc/passwd")).unwrap();
        }
        let opened = File::open(upper.join("etc")).unwrap();
        if rustix::fs::fsetxattr(&opened, OPAQUE[1], b"y", rustix::fs::XattrFlags::empty()).is_ok() {
            assert_eq!(layers.read("/etc/passwd", 9).unwrap(), "");
        }
    }

    #[test]
    fn other_file_systems_are_not_looked_into() {
        assert_eq!(Layers::of(&[]), None);
        assert_eq!(Layers::of(&[Mount { kind: "erofs".into(), ..Default::default() }]), None);
    }
}
