//! Maps of sparse files: where the bytes that an archive holds belong in the file.

use windlass_model::Result;

use super::damaged;
use super::header::{BLOCK, extent};
use super::pax::decimal;

/// The most extents of one file: a map of 1 MiB.
const MAX_EXTENTS: usize = 1 << 16;
/// Bytes of an extent in the old GNU form.
const OLD_EXTENT: usize = 24;

/// A run of bytes in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// An old GNU map, which goes on over several blocks.
pub(super) struct Map {
    pub(super) size: u64,
    pub(super) extents: Vec<Extent>,
    pub(super) continues: bool,
}

impl Map {
    pub(super) fn add(&mut self, fields: &[u8]) -> Result<()> {
        for field in fields.chunks_exact(OLD_EXTENT) {
            let Some(extent) = extent(field)? else { break };
            push(&mut self.extents, extent)?;
        }
        Ok(())
    }

    pub(super) fn extend(&mut self, block: &[u8; BLOCK]) -> Result<()> {
        self.continues = block[504] != 0;
        self.add(&block[..504])
    }
}

fn push(extents: &mut Vec<Extent>, extent: Extent) -> Result<()> {
    if extents.len() == MAX_EXTENTS {
        return Err(damaged("a sparse file has too many pieces"));
    }
    extents.push(extent);
    Ok(())
}

/// A map of format 1.0 as its blocks come: a count, then offsets and lengths, each on a line.
#[derive(Default)]
pub(super) struct TextMap {
    line: Vec<u8>,
    numbers: Vec<u64>,
}

impl TextMap {
    pub(super) fn is_complete(&self) -> bool {
        self.numbers.first().is_some_and(|count| self.numbers.len() as u64 > count.saturating_mul(2))
    }

    pub(super) fn feed(&mut self, block: &[u8]) -> Result<()> {
        for byte in block {
            if self.is_complete() {
                break;
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            self.numbers.push(decimal(&self.line)?);
            self.line.clear();
            if self.numbers.first().is_some_and(|count| *count > MAX_EXTENTS as u64) {
                return Err(damaged("a sparse file has too many pieces"));
            }
        }
        Ok(())
    }

    pub(super) fn extents(self) -> Result<Vec<Extent>> {
        let pairs = self.numbers.get(1..).unwrap_or_default().chunks_exact(2);
        Ok(pairs.map(|pair| Extent { offset: pair[0], length: pair[1] }).collect())
    }
}

/// Checks that extents are in order, inside the file, and cover exactly the `payload` bytes that follow.
pub(super) fn check(size: u64, extents: &[Extent], payload: u64) -> Result<()> {
    let (mut end, mut sum) = (0, 0u64);
    for extent in extents {
        let next = extent.offset.checked_add(extent.length).filter(|next| extent.offset >= end && *next <= size);
        end = next.ok_or_else(|| damaged("the pieces of a sparse file overlap or lie outside it"))?;
        sum = sum.saturating_add(extent.length);
    }
    if sum != payload || i64::try_from(size).is_err() {
        return Err(damaged("a sparse file's map does not fit its bytes"));
    }
    Ok(())
}
