//! Layers packed and unpacked: gzip with any number of members, zstd with any number of frames, or none.
//!
//! The first bytes decide, not the media type: registries hold layers whose type is wrong, and the diffID is checked
//! anyway. The media type only has to be one of a layer that is a tar archive.

use std::io::{self, BufRead, Cursor, Read, Write};

use windlass_model::{Error, Kind, Result};

use super::error_of;

const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd frame that decoders skip; seekable archives begin with one.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// How hard zstd tries.
const ZSTD_LEVEL: i32 = 3;

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Bytes being packed. The same bytes are packed the same way each time.
pub(crate) enum Packer<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl Compression {
    /// What the media type of a new layer says.
    pub(crate) fn of(media_type: &str) -> Result<Self> {
        Ok(match media_type {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => Self::None,
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Self::Gzip
            }
            "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Self::Zstd
            }
            other => return Err(Error::unimplemented(format!("no layers of media type {other:?} are made"))),
        })
    }

    /// What the first bytes of a blob say.
    pub(crate) fn detect(start: &[u8]) -> Self {
        match start {
            start if start.starts_with(&GZIP) => Self::Gzip,
            start if start.starts_with(&ZSTD) || start.get(1..4).is_some_and(|rest| rest == ZSTD_SKIPPABLE) => {
                Self::Zstd
            }
            _ => Self::None,
        }
    }
}

impl<W: Write> Packer<W> {
    pub(crate) fn new(compression: Compression, out: W) -> Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(out),
            Compression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::default())),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?),
        })
    }

    /// Writes what is left.
    pub(crate) fn finish(self) -> Result<W> {
        Ok(match self {
            Self::None(out) => out,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        })
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// What `source` holds, decompressed.
pub(super) fn decoder<'a>(mut source: impl BufRead + 'a, media_type: &str) -> Result<Box<dyn Read + 'a>> {
    check_media_type(media_type)?;
    let mut start = Vec::with_capacity(ZSTD.len());
    source.by_ref().take(ZSTD.len() as u64).read_to_end(&mut start).map_err(error_of)?;
    let compression = Compression::detect(&start);
    let whole = Cursor::new(start).chain(source);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(whole);
            Box::new(decoder.map_err(|error| Error::with_source(Kind::Internal, "zstd cannot be set up", error))?)
        }
    })
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
