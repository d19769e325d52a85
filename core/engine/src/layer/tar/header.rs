//! A tar header block: fixed fields, and numbers in octal or, from GNU, in base 256.

use windlass_model::{Error, Result};

use super::sparse::{Extent, Map};
use super::{EntryKind, damaged};

/// Everything in an archive begins at a multiple of this.
pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    pub(super) fn new(block: &'a [u8; BLOCK]) -> Result<Self> {
        let told = number(&block[148..156])?;
        let field = 148..156;
        let at = |(position, byte): (usize, &u8)| if field.contains(&position) { b' ' } else { *byte };
        let unsigned: i64 = block.iter().enumerate().map(|pair| i64::from(at(pair))).sum();
        // Some old programs summed signed bytes.
        let signed: i64 = block.iter().enumerate().map(|pair| i64::from(at(pair) as i8)).sum();
        if told != unsigned && told != signed {
            return Err(damaged("a header's checksum is wrong"));
        }
        Ok(Self(block))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn kind(&self, path: &[u8]) -> Result<EntryKind> {
        Ok(match self.type_flag() {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Character,
            b'4' => EntryKind::Block,
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let what = char::from(other).escape_default();
                return Err(Error::invalid(format!("a tar entry has the unknown type '{what}'")));
            }
        })
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        // Only POSIX has a prefix there; GNU's magic ends in spaces and it keeps other things in that place.
        let prefix = if &self.0[257..263] == b"ustar\0" { text(&self.0[345..500]) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32> {
        // Old programs put the file type in the upper bits.
        Ok((number(&self.0[100..108])? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u64> {
        unsigned(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Result<u64> {
        unsigned(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Result<u64> {
        unsigned(&self.0[124..136])
    }

    pub(super) fn mtime(&self) -> Result<i64> {
        number(&self.0[136..148])
    }

    pub(super) fn device(&self) -> Result<(u32, u32)> {
        let part = |field| u32::try_from(unsigned(field)?).map_err(|_| damaged("a device number is too large"));
        Ok((part(&self.0[329..337])?, part(&self.0[337..345])?))
    }

    /// The start of an old GNU sparse map.
    pub(super) fn sparse_map(&self) -> Result<Map> {
        let mut map = Map { size: unsigned(&self.0[483..495])?, extents: Vec::new(), continues: self.0[482] != 0 };
        map.add(&self.0[386..482])?;
        Ok(map)
    }
}

/// A field of text: up to a zero byte or its end.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

pub(super) fn unsigned(field: &[u8]) -> Result<u64> {
    u64::try_from(number(field)?).map_err(|_| damaged("a number is negative"))
}

fn number(field: &[u8]) -> Result<i64> {
    let wrong = || damaged("a header holds a wrong number");
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        // Base 256: the top bit marks it, the next one is the sign.
        let start = if first & 0x40 != 0 { -1i64 << 6 } else { 0 } | i64::from(first & 0x3f);
        let shift = |value: i64, byte: &u8| Some(value.checked_mul(256)? | i64::from(*byte));
        return rest.iter().try_fold(start, shift).ok_or_else(wrong);
    }
    let digits = text(field).trim_ascii();
    digits
        .iter()
        .try_fold(0i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
        .ok_or_else(wrong)
}

/// An extent in the form of the old GNU map; empty fields are no extent.
pub(super) fn extent(field: &[u8]) -> Result<Option<Extent>> {
    if field.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    Ok(Some(Extent { offset: unsigned(&field[..12])?, length: unsigned(&field[12..24])? }))
}
