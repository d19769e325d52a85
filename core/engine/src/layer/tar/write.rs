//! Writing archives: POSIX ustar headers, and PAX records before them for names, numbers and attributes that do not fit.
//!
//! The same entries give the same bytes whoever writes them and whenever: nothing of this process or machine is in them.

use std::io::{self, Write};

use windlass_model::{Error, Result};

use super::header::BLOCK;
use super::{Entry, EntryKind};

/// The longest name or link in a header, in bytes; the prefix field is not used.
const MAX_NAME: usize = 100;
/// The highest number in a field of eight bytes, and in one of twelve.
const MAX_NUMBERS: (u64, u64) = (0o7_777_777, 0o77_777_777_777);

/// An archive being written.
pub(crate) struct Builder<W> {
    out: W,
    /// Bytes that the present entry still lacks.
    left: u64,
    /// Bytes after them up to a whole block.
    padding: usize,
}

impl<W: Write> Builder<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, left: 0, padding: 0 }
    }

    /// Begins an entry of `size` bytes, which [`Builder::data`] is to be given. Of its times only the seconds are kept.
    pub(crate) fn entry(&mut self, entry: &Entry, size: u64) -> Result<()> {
        self.end_entry()?;
        let records = records(entry, size);
        if !records.is_empty() {
            let mut block = header(b"PaxHeaders.0/x", b"", b'x', records.len() as u64);
            numbers(&mut block, 0o644, 0, 0, 0);
            self.block(block)?;
            self.out.write_all(&records)?;
            self.out.write_all(&[0; BLOCK][..padding(records.len() as u64)])?;
        }
        let mut block = header(&entry.path, &entry.link, flag(entry.kind), size);
        numbers(&mut block, entry.mode, entry.uid, entry.gid, entry.mtime.0);
        if matches!(entry.kind, EntryKind::Character | EntryKind::Block) {
            octal(&mut block[329..337], entry.device.0.into());
            octal(&mut block[337..345], entry.device.1.into());
        }
        self.block(block)?;
        (self.left, self.padding) = (size, padding(size));
        Ok(())
    }

    /// Some of the present entry's bytes.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| Error::internal("an archive's entry gets more bytes than were announced"))?;
        Ok(self.out.write_all(bytes)?)
    }

    /// How many bytes the present entry still lacks.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.end_entry()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn end_entry(&mut self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::internal("an archive's entry got fewer bytes than were announced"));
        }
        self.out.write_all(&[0; BLOCK][..std::mem::take(&mut self.padding)])?;
        Ok(())
    }

    fn block(&mut self, mut block: [u8; BLOCK]) -> io::Result<()> {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.out.write_all(&block)
    }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::Character => b'3',
        EntryKind::Block => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

fn header(path: &[u8], link: &[u8], flag: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut text = |at: usize, text: &[u8]| {
        let length = text.len().min(MAX_NAME);
        block[at..at + length].copy_from_slice(&text[..length]);
    };
    text(0, path);
    text(157, link);
    text(257, b"ustar\x0000");
    block[156] = flag;
    octal(&mut block[124..136], size.min(MAX_NUMBERS.1));
    block
}

fn numbers(block: &mut [u8; BLOCK], mode: u32, uid: u32, gid: u32, mtime: i64) {
    octal(&mut block[100..108], (mode & 0o7777).into());
    octal(&mut block[108..116], u64::from(uid).min(MAX_NUMBERS.0));
    octal(&mut block[116..124], u64::from(gid).min(MAX_NUMBERS.0));
    octal(&mut block[136..148], u64::try_from(mtime).unwrap_or(0).min(MAX_NUMBERS.1));
}

/// Digits up to a final zero byte.
fn octal(field: &mut [u8], number: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{number:0width$o}").as_bytes());
}

/// What the header of `entry` cannot say.
fn records(entry: &Entry, size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.extend_from_slice(&record(key, value));
    if entry.path.len() > MAX_NAME {
        add(b"path", &entry.path);
    }
    if entry.link.len() > MAX_NAME {
        add(b"linkpath", &entry.link);
    }
    if size > MAX_NUMBERS.1 {
        add(b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > MAX_NUMBERS.0 {
            add(key, id.to_string().as_bytes());
        }
    }
    if u64::try_from(entry.mtime.0).map_or(true, |mtime| mtime > MAX_NUMBERS.1) {
        add(b"mtime", entry.mtime.0.to_string().as_bytes());
    }
    for (name, value) in &entry.xattrs {
        add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// `<length> <key>=<value>\n`, in which the length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::super::Archive;
    use super::*;

    fn entry(path: &[u8], kind: EntryKind) -> Entry {
        Entry {
            path: path.to_vec(),
            kind,
            link: Vec::new(),
            mode: 0o4755,
            uid: 1,
            gid: 2,
            mtime: (1_600_000_000, 0),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut odd = entry(&[b"n".repeat(120), vec![0xff, b'\n']].concat(), EntryKind::HardLink);
        (odd.link, odd.uid, odd.mtime) = (b"l".repeat(101), 3_000_000, (-5, 0));
        odd.xattrs = vec![(b"user.a".to_vec(), b"b\0\n=".to_vec()), (b"user.b".to_vec(), vec![7; 987])];
        let mut device = entry(b"dev", EntryKind::Block);
        device.device = (8, 17);
        let all = [entry(b"file", EntryKind::File), odd, device, entry(b"folder/", EntryKind::Directory)];
        let mut builder = Builder::new(Vec::new());
        for entry in &all {
            let bytes: &[u8] = if entry.kind == EntryKind::File { b"hello" } else { b"" };
            builder.entry(entry, bytes.len() as u64).unwrap();
            builder.data(bytes).unwrap();
        }
        let bytes = builder.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut archive = Archive::new(&bytes[..]);
        for entry in &all {
            assert_eq!(archive.next().unwrap().as_ref(), Some(entry));
        }
        assert!(archive.next().unwrap().is_none());
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [1, 90, 91, 92, 93, 94, 95, 96, 990, 991, 992, 993] {
            let record = record(b"k", &b"v".repeat(length));
            let told: usize = std::str::from_utf8(&record).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, record.len());
        }
    }

    #[test]
    fn an_entry_gets_the_bytes_that_were_announced() {
        let mut builder = Builder::new(Vec::new());
        builder.entry(&entry(b"f", EntryKind::File), 3).unwrap();
        assert!(builder.data(b"four").is_err());
        builder.data(b"tw").unwrap();
        assert!(builder.finish().is_err());
    }
}
