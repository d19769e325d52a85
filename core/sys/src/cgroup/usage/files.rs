//! Reading the kernel's small text files, and the two forms of text that most of them have.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More than any file that is read here; what is longer is cut.
const LONGEST: usize = 256 * 1024;
/// What nearly all files fit into.
const USUAL: usize = 8 * 1024;

/// Reads one file after another into the same buffer.
#[derive(Default)]
pub(super) struct Files(Vec<u8>);

impl Files {
    /// The text of a file; nothing where it cannot be read.
    pub(super) fn text(&mut self, folder: &Path, name: &str) -> Option<&str> {
        let mut file = File::open(folder.join(name)).ok()?;
        if self.0.is_empty() {
            self.0.resize(USUAL, 0);
        }
        let mut filled = 0;
        loop {
            if filled == self.0.len() {
                if filled >= LONGEST {
                    break;
                }
                self.0.resize(filled * 2, 0);
            }
            match file.read(&mut self.0[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        std::str::from_utf8(&self.0[..filled]).ok()
    }

    /// The one number in a file; nothing for "max" and for what is no number.
    pub(super) fn number(&mut self, folder: &Path, name: &str) -> Option<u64> {
        number(self.text(folder, name)?)
    }
}

/// The only number in a text.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The lines of "name number"; others are passed over.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, number(value)?))
    })
}
