//! The layer's side: entries in the order in which they are found, and what an archive needs beside them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use windlass_model::{Error, Result};

use super::node::{self, Node};
use crate::layer::apply::{OPAQUE, PREFIX};
use crate::layer::tar::{Builder, Entry, EntryKind};

/// How much of a file is copied at once.
const PIECE: usize = 256 << 10;

/// An entry that may yet have to be written, and its folder's.
type Unchanged = (Entry, Option<Entry>);

/// A layer being written.
pub(super) struct Layer<W> {
    tar: Builder<W>,
    newest: Option<i64>,
    /// The folders above the present place, and which of them were written: those that something was written in.
    above: Vec<(Entry, bool)>,
    /// Under which name a file with several was written.
    written: HashMap<(u64, u64), Vec<u8>>,
    /// Unchanged names of files with several: if another name of the same file is written, these must be, too, or
    /// they would be a file of their own. Each with its folder, which gets its time once more.
    unchanged: HashMap<(u64, u64), Vec<Unchanged>>,
    piece: Vec<u8>,
}

impl<W: Write> Layer<W> {
    pub(super) fn new(out: W, newest: Option<i64>) -> Self {
        Self {
            tar: Builder::new(out),
            newest,
            above: Vec::new(),
            written: HashMap::new(),
            unchanged: HashMap::new(),
            piece: vec![0; PIECE],
        }
    }

    pub(super) fn finish(self) -> Result<W> {
        self.tar.finish()
    }

    /// Goes into a folder that is worth an entry only if something in it is, or at once if it `changed`.
    pub(super) fn enter(&mut self, path: &[u8], node: &Node, changed: bool) -> Result<()> {
        let name = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
        let entry = self.describe(name, EntryKind::Directory, node);
        self.above.push((entry, false));
        if changed { self.flush() } else { Ok(()) }
    }

    /// Leaves the folder that was entered last.
    pub(super) fn leave(&mut self) {
        self.above.pop();
    }

    /// What `name` stands for is gone.
    pub(super) fn delete(&mut self, folder: &[u8], name: &[u8]) -> Result<()> {
        self.mark(folder, &[PREFIX, name].concat())
    }

    /// Nothing that is below counts in this folder.
    pub(super) fn hide_lower(&mut self, folder: &[u8]) -> Result<()> {
        self.mark(folder, OPAQUE)
    }

    fn mark(&mut self, folder: &[u8], name: &[u8]) -> Result<()> {
        self.flush()?;
        let entry = Entry {
            path: join(folder, name),
            kind: EntryKind::File,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        };
        self.tar.entry(&entry, 0)
    }

    /// Something that is no folder and did not change.
    pub(super) fn keep(&mut self, path: &[u8], node: &Node) -> Result<()> {
        let (Some(shared), Some(kind)) = (node.shared(), kind(node)) else { return Ok(()) };
        match self.written.get(&shared).cloned() {
            Some(first) => self.link(path, node, first),
            None => {
                let entry = self.describe(path.to_vec(), kind, node);
                let folder = self.above.last().map(|(folder, _)| folder.clone());
                self.unchanged.entry(shared).or_default().push((entry, folder));
                Ok(())
            }
        }
    }

    /// Something that is no folder and is new or changed.
    pub(super) fn put(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], node: &Node) -> Result<()> {
        // Sockets live with their process.
        let Some(kind) = kind(node) else { return Ok(()) };
        if let Some(first) = node.shared().and_then(|shared| self.written.get(&shared).cloned()) {
            return self.link(path, node, first);
        }
        let entry = self.describe(path.to_vec(), kind, node);
        if kind == EntryKind::File {
            let Some(file) = node::file(parent, name)? else { return Ok(()) };
            self.flush()?;
            self.tar.entry(&entry, u64::try_from(node.stat.st_size).unwrap_or(0))?;
            self.copy(file)?;
        } else {
            self.flush()?;
            self.tar.entry(&entry, 0)?;
        }
        let Some(shared) = node.shared() else { return Ok(()) };
        self.written.insert(shared, path.to_vec());
        for (entry, folder) in self.unchanged.remove(&shared).unwrap_or_default() {
            self.tar.entry(&Entry { kind: EntryKind::HardLink, link: path.to_vec(), ..entry }, 0)?;
            folder.map_or(Ok(()), |folder| self.tar.entry(&folder, 0))?;
        }
        Ok(())
    }

    fn link(&mut self, path: &[u8], node: &Node, first: Vec<u8>) -> Result<()> {
        self.flush()?;
        let entry = self.describe(path.to_vec(), EntryKind::HardLink, node);
        self.tar.entry(&Entry { link: first, ..entry }, 0)
    }

    /// As many bytes as the entry says, of a file that may grow or shrink meanwhile.
    fn copy(&mut self, mut file: std::fs::File) -> Result<()> {
        while self.tar.left() > 0 {
            let room = self.piece.len().min(usize::try_from(self.tar.left()).unwrap_or(usize::MAX));
            match file.read(&mut self.piece[..room])? {
                0 => return Err(Error::unavailable("a file became shorter while it was read")),
                length => self.tar.data(&self.piece[..length])?,
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        for (entry, written) in self.above.iter_mut().filter(|(_, written)| !written) {
            self.tar.entry(entry, 0)?;
            *written = true;
        }
        Ok(())
    }

    fn describe(&self, path: Vec<u8>, kind: EntryKind, node: &Node) -> Entry {
        let stat = &node.stat;
        let mtime = self.newest.map_or(stat.st_mtime, |newest| stat.st_mtime.min(newest));
        Entry {
            path,
            kind,
            link: node.link.clone(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (mtime, 0),
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            xattrs: if kind == EntryKind::HardLink { Vec::new() } else { node.xattrs.clone() },
            sparse: None,
        }
    }
}

fn kind(node: &Node) -> Option<EntryKind> {
    Some(match node.kind() {
        FileType::RegularFile => EntryKind::File,
        FileType::Symlink => EntryKind::Symlink,
        FileType::CharacterDevice => EntryKind::Character,
        FileType::BlockDevice => EntryKind::Block,
        FileType::Fifo => EntryKind::Fifo,
        _ => return None,
    })
}

/// `folder/name`, where the root is empty.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
