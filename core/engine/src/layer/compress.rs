//! Decompression of layers: gzip with any number of members, zstd with any number of frames, or none.
//!
//! The first bytes decide, not the media type: registries hold layers whose type is wrong, and the diffID is checked
//! anyway. The media type only has to be one of a layer that is a tar archive.

use std::io::{BufRead, Cursor, Read};

use windlass_model::{Error, Kind, Result};

use super::error_of;

const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd frame that decoders skip; seekable archives begin with one.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// What `source` holds, decompressed.
pub(super) fn decoder<'a>(mut source: impl BufRead + 'a, media_type: &str) -> Result<Box<dyn Read + 'a>> {
    check_media_type(media_type)?;
    let mut start = Vec::with_capacity(ZSTD.len());
    source.by_ref().take(ZSTD.len() as u64).read_to_end(&mut start).map_err(error_of)?;
    let gzip = start.starts_with(&GZIP);
    let zstd = start.starts_with(&ZSTD) || start.get(1..).is_some_and(|rest| rest == ZSTD_SKIPPABLE);
    let whole = Cursor::new(start).chain(source);
    if gzip {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole)));
    }
    if zstd {
        let decoder = zstd::stream::read::Decoder::with_buffer(whole)
            .map_err(|error| Error::with_source(Kind::Internal, "zstd cannot be set up", error))?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(whole))
}

/// Refuses what is not a tar layer, before a byte of it is fetched.
pub(crate) fn check_media_type(media_type: &str) -> Result<()> {
    let known = media_type.is_empty()
        || media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.");
    if media_type.ends_with("+encrypted") {
        return Err(Error::unimplemented(format!("a layer is encrypted ({media_type})")));
    }
    if !known || !media_type.is_empty() && !media_type.contains(".tar") {
        return Err(Error::unimplemented(format!("a layer has the unknown media type {media_type:?}")));
    }
    Ok(())
}
