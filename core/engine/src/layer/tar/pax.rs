//! PAX records: `<length> <key>=<value>\n`, in which the numbers and names stand that do not fit a header.

use windlass_model::Result;

use super::damaged;
use super::sparse::Extent;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// What the records before an entry say of it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// GNU's records of sparse files.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// Offsets and lengths in turn.
    numbers: Vec<u64>,
}

impl PaxSparse {
    /// Format 1.0.
    pub(super) fn has_map_in_data(&self) -> bool {
        (self.major, self.minor) == (Some(1), Some(0))
    }

    /// Formats 0.0 and 0.1.
    pub(super) fn extents(&self) -> Result<Vec<Extent>> {
        if !self.numbers.len().is_multiple_of(2) {
            return Err(damaged("a sparse map has an offset without a length"));
        }
        Ok(self.numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], length: pair[1] }).collect())
    }
}

impl Pax {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        while let Some((key, value, rest)) = record(bytes)? {
            pax.take(key, value)?;
            bytes = rest;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // An empty value takes an earlier one back.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let count = || if value.is_empty() { Ok(None) } else { decimal(value).map(Some) };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = count()?,
            b"uid" => self.uid = count()?,
            b"gid" => self.gid = count()?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.major" => self.sparse.major = count()?,
            b"GNU.sparse.minor" => self.sparse.minor = count()?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = count()?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.numbers.push(decimal(value)?),
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').filter(|number| !number.is_empty());
                self.sparse.numbers = numbers.map(decimal).collect::<Result<_>>()?;
            }
            key => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The first record and what follows it.
#[allow(clippy::type_complexity, reason = "key, value, rest")]
fn record(bytes: &[u8]) -> Result<Option<(&[u8], &[u8], &[u8])>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let wrong = || damaged("a PAX record is wrong");
    let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
    let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| wrong())?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return Err(wrong());
    }
    let (record, rest) = bytes.split_at(length);
    let record = &record[space + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
    if equals == 0 {
        return Err(wrong());
    }
    Ok(Some((&record[..equals], &record[equals + 1..], rest)))
}

pub(super) fn decimal(text: &[u8]) -> Result<u64> {
    let number = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|text| text.parse().ok()).ok_or_else(|| damaged("a PAX record holds a wrong number"))
}

/// Seconds with a fraction, perhaps negative.
fn time(text: &[u8]) -> Result<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds =
        i64::try_from(decimal(parts.next().unwrap_or_default())?).map_err(|_| damaged("a time is too large"))?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(damaged("a time has a wrong fraction"));
    }
    let digit = |place: usize| u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    let nanoseconds = (0..9).fold(0, |value, place| value * 10 + digit(place));
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, nanoseconds) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}
