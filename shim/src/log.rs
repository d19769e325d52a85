//! The CRI log file of one container: lines cut out of streams, and appended so that none is ever torn.
//!
//! An entry is `<RFC 3339 time with nanoseconds> <stdout|stderr> <F|P> <text>\n`. A line longer than the limit is cut into
//! pieces: `P` marks those that another one follows, `F` the last. What was read in one go shares one time stamp.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use windlass_model::{Context, Result, Timestamp};

/// How much formatted text is collected before it is written, in bytes.
const BATCH: usize = 256 * 1024;

/// Which of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One stream on its way into a log: keeps the piece of a line whose end has not come.
#[derive(Debug)]
pub struct Lines {
    stream: Stream,
    max_line: usize,
    pending: Vec<u8>,
}

/// The file, shared by both streams of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    /// Entries that could not be written since the last one that could.
    lost: u64,
    why: Option<io::Error>,
}

impl Stream {
    fn tag(self) -> &'static [u8] {
        match self {
            Self::Stdout => b" stdout ",
            Self::Stderr => b" stderr ",
        }
    }
}

impl Lines {
    /// A stream whose lines are cut after `max_line` bytes.
    pub fn new(stream: Stream, max_line: usize) -> Self {
        Self { stream, max_line: max_line.max(1), pending: Vec::new() }
    }

    /// Appends to the log what `input` completes, and keeps the rest.
    pub fn feed(&mut self, input: &[u8], now: Timestamp, log: &mut Log) {
        let mut out = Vec::with_capacity((input.len() + input.len() / 2 + 256).min(BATCH + BATCH / 4));
        let mut rest = input;
        while !rest.is_empty() {
            let used = self.format(rest, now, &mut out);
            log.append(&out, now);
            out.clear();
            rest = &rest[used..];
        }
    }

    /// The stream has ended: a line without its end is a line too.
    pub fn finish(&mut self, now: Timestamp, log: &mut Log) {
        if self.pending.is_empty() {
            return;
        }
        let mut out = Vec::with_capacity(self.pending.len() + 64);
        out.extend_from_slice(&self.prefix(now));
        out.extend_from_slice(b"F ");
        out.append(&mut self.pending);
        out.push(b'\n');
        self.pending = Vec::new();
        log.append(&out, now);
    }

    fn prefix(&self, now: Timestamp) -> [u8; 38] {
        let mut prefix = [0; 38];
        prefix[..30].copy_from_slice(&rfc3339(now));
        prefix[30..].copy_from_slice(self.stream.tag());
        prefix
    }

    /// Formats entries from the front of `input` until it or the batch is full; says how much of it was taken.
    fn format(&mut self, input: &[u8], now: Timestamp, out: &mut Vec<u8>) -> usize {
        let prefix = self.prefix(now);
        let mut used = 0;
        while used < input.len() && out.len() < BATCH {
            let rest = &input[used..];
            // How much of this piece may still come before it is cut.
            let room = self.max_line - self.pending.len();
            let window = &rest[..rest.len().min(room + 1)];
            match memchr::memchr(b'\n', window) {
                Some(end) => {
                    self.entry(&prefix, b"F ", &rest[..end], out);
                    used += end + 1;
                }
                None if window.len() > room => {
                    self.entry(&prefix, b"P ", &rest[..room], out);
                    used += room;
                }
                None => {
                    self.pending.extend_from_slice(rest);
                    used = input.len();
                }
            }
        }
        used
    }

    fn entry(&mut self, prefix: &[u8], mark: &[u8], text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(prefix);
        out.extend_from_slice(mark);
        if !self.pending.is_empty() {
            out.extend_from_slice(&self.pending);
            // Long lines are rare: their memory is given back.
            self.pending = Vec::new();
        }
        out.extend_from_slice(text);
        out.push(b'\n');
    }
}

impl Log {
    /// Opens the file for appending; it is made, with its folder, where it is missing.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
        }
        let file = open(path)?;
        Ok(Self { path: path.into(), file, lost: 0, why: None })
    }

    /// Opens the file anew, after it was renamed; the old one stays in use where that fails.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn reopen(&mut self) -> Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Appends whole entries. Where the file system takes no more, entries are dropped whole and counted, and a note of
    /// it is written as soon as there is room: a container does not stop because its log is full.
    fn append(&mut self, entries: &[u8], now: Timestamp) {
        if self.lost > 0 {
            let why = self.why.as_ref().map(ToString::to_string).unwrap_or_default();
            let mut note = rfc3339(now).to_vec();
            note.extend_from_slice(b" stderr F ");
            note.extend_from_slice(format!("windlass: {} log entries were lost: {why}\n", self.lost).as_bytes());
            if self.append_whole(&note) == note.len() {
                self.lost = 0;
                self.why = None;
            }
        }
        let kept = if self.lost == 0 { self.append_whole(entries) } else { 0 };
        self.lost += memchr::memchr_iter(b'\n', &entries[kept..]).count() as u64;
    }

    /// Writes as many whole entries from the front as there is room for, and says how many bytes they are.
    fn append_whole(&mut self, entries: &[u8]) -> usize {
        let mut written = 0;
        while written < entries.len() {
            match self.file.write(&entries[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.why = Some(error);
                    break;
                }
            }
        }
        if written == entries.len() {
            return written;
        }
        let whole = memchr::memrchr(b'\n', &entries[..written]).map_or(0, |end| end + 1);
        if whole < written {
            // Nobody else appends to this file, so the torn end is ours.
            let cut = self.file.metadata().map(|found| found.len().saturating_sub((written - whole) as u64));
            let cut = cut.and_then(|length| self.file.set_len(length));
            if let Err(error) = cut {
                self.why = Some(error);
            }
        }
        whole
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .context(|| format!("open log {}", path.display()))
}

/// `2026-01-02T03:04:05.000000006Z`.
pub fn rfc3339(at: Timestamp) -> [u8; 30] {
    let (seconds, nanos) = at.parts();
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |start: usize, digits: usize, mut value: u32| {
        for place in (start..start + digits).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, second / 3600);
    put(14, 2, second / 60 % 60);
    put(17, 2, second % 60);
    put(20, 9, nanos as u32);
    text
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are counted from March, so that
/// the leap day is the last of its year, in eras of 400 years.
fn civil(days: i64) -> (u32, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

#[cfg(test)]
mod tests;
