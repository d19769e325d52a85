//! Compiled profiles that all shims of a daemon share, in a folder that goes with the machine's next start.
//!
//! Most containers have one of a few profiles. A file is found by a hash of what it was compiled from, and holds that too,
//! so that two profiles are never taken for each other.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, DirBuilder};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use libseccomp::ScmpVersion;

use super::Filter;

/// How many profiles are kept; where there are more, all are forgotten.
const MOST: usize = 64;

/// The folder and what a profile is known by.
#[derive(Debug)]
pub struct Place<'a> {
    folder: &'a Path,
    key: Vec<u8>,
}

impl<'a> Place<'a> {
    /// The place of `profile`, the text of it, as the library that is linked compiles it.
    pub fn of(folder: &'a Path, profile: &[u8]) -> Self {
        let library = ScmpVersion::current().map(|version| (version.major, version.minor, version.micro));
        let program = env!("CARGO_PKG_VERSION");
        let key = [format!("{program} {:?}\n", library.unwrap_or_default()).as_bytes(), profile].concat();
        Self { folder, key }
    }

    fn file(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.key.hash(&mut hasher);
        self.folder.join(format!("{:016x}", hasher.finish()))
    }

    /// The filter, where it was kept.
    pub fn find(&self) -> Option<Filter> {
        // Whoever could write here could let containers call what they must not.
        let ours = fs::symlink_metadata(self.folder).is_ok_and(|folder| {
            folder.is_dir() && folder.uid() == rustix::process::geteuid().as_raw() && folder.mode() & 0o077 == 0
        });
        let bytes = fs::read(self.file()).ok().filter(|_| ours)?;
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (key, filter) = rest.split_at_checked(usize::try_from(u64::from_ne_bytes(*length)).ok()?)?;
        if key == self.key { Filter::parse(filter) } else { None }
    }

    /// Keeps the filter. What fails here costs time later and nothing else.
    pub fn keep(&self, filter: &Filter) {
        let file = self.file();
        DirBuilder::new().mode(0o700).create(self.folder).ok();
        if fs::read_dir(self.folder).is_ok_and(|files| files.count() >= MOST) {
            forget(self.folder);
        }
        let length = (self.key.len() as u64).to_ne_bytes();
        let bytes = [&length[..], &self.key, &filter.bytes()].concat();
        // Others may be keeping the same.
        let own = file.with_extension(std::process::id().to_string());
        if windlass_sys::fs::write_atomic(&own, &bytes).is_ok() && fs::rename(&own, file).is_err() {
            fs::remove_file(own).ok();
        }
    }
}

fn forget(folder: &Path) {
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        fs::remove_file(file.path()).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_filter_is_found_by_all_of_its_profile_in_a_folder_of_ours_only() {
        let folder = std::env::temp_dir().join(format!("w-seccomp-{}", std::process::id()));
        fs::remove_dir_all(&folder).ok();
        let filter = Filter { flags: 2, program: vec![7; 16] };
        let place = Place::of(&folder, b"profile");
        assert_eq!(place.find(), None);
        place.keep(&filter);
        assert_eq!(place.find(), Some(filter));
        assert_eq!(Place::of(&folder, b"another").find(), None);
        // A collision of hashes.
        fs::copy(place.file(), Place::of(&folder, b"another").file()).unwrap();
        assert_eq!(Place::of(&folder, b"another").find(), None);

        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
        assert_eq!(place.find(), None, "others can write there");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        for length in [0, 4, 9, 30] {
            let cut = fs::read(place.file()).unwrap()[..length].to_vec();
            fs::write(folder.join("cut"), &cut).unwrap();
            fs::rename(folder.join("cut"), Place::of(&folder, b"cut").file()).unwrap();
            assert_eq!(Place::of(&folder, b"cut").find(), None);
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_full_folder_begins_anew() {
        let folder = std::env::temp_dir().join(format!("w-seccomp-full-{}", std::process::id()));
        fs::remove_dir_all(&folder).ok();
        let filter = Filter { flags: 0, program: vec![1; 8] };
        for number in 0..=MOST {
            Place::of(&folder, number.to_string().as_bytes()).keep(&filter);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
