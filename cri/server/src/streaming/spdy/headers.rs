//! Header blocks of SPDY/3: names and values, compressed with zlib over a dictionary that both sides know.
//!
//! One compression state lives as long as its connection. What we say needs no compression: a reply's header block is
//! always empty, so it is written as stored blocks, which any inflater reads and which need no state.

use std::sync::LazyLock;

use flate2::{Decompress, FlushDecompress, Status};

use super::frame::Violation;

/// The largest header block after decompression, in bytes.
const MAX_BLOCK: usize = 64 * 1024;

/// The most headers of a block; Kubernetes sends up to three.
const MAX_PAIRS: u32 = 128;

/// The headers of a stream; names are in small letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Headers(Vec<(String, String)>);

/// The decompression state of a connection.
#[derive(Default)]
pub(super) struct Inflater(Option<Box<Decompress>>);

/// The compression state of a connection.
#[derive(Default)]
pub(super) struct Deflater {
    begun: bool,
}

impl Headers {
    /// The first value of `name`, which is in small letters.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.split('\0').next().unwrap_or(value))
    }

    pub(super) fn parse(mut block: &[u8]) -> Result<Self, Violation> {
        let count = word(&mut block)?;
        if count > MAX_PAIRS {
            return Err(Violation::HeaderBlock);
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for _ in 0..count {
            let name = text(&mut block)?;
            let value = text(&mut block)?;
            let known = pairs.iter().any(|(key, _)| *key == name);
            if known || name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(Violation::HeaderBlock);
            }
            pairs.push((name, value));
        }
        if block.is_empty() { Ok(Self(pairs)) } else { Err(Violation::HeaderBlock) }
    }
}

fn word(block: &mut &[u8]) -> Result<u32, Violation> {
    let (first, rest) = block.split_first_chunk().ok_or(Violation::HeaderBlock)?;
    *block = rest;
    Ok(u32::from_be_bytes(*first))
}

fn text(block: &mut &[u8]) -> Result<String, Violation> {
    let length = usize::try_from(word(block)?).map_err(|_| Violation::HeaderBlock)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Violation::HeaderBlock)?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| Violation::HeaderBlock)
}

impl Inflater {
    /// Reads a header block; the state goes on to the next one, so each block of a connection must come here.
    ///
    /// # Errors
    /// A [`Violation`] after which the state is of no use: a block that is no zlib data, grows too large, or does not
    /// hold what it promises.
    pub(super) fn read(&mut self, compressed: &[u8]) -> Result<Headers, Violation> {
        Headers::parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, Violation> {
        let zlib = self.0.get_or_insert_with(|| Box::new(Decompress::new(true)));
        let mut output = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let (before_in, before_out) = (zlib.total_in(), zlib.total_out());
            let status = match zlib.decompress(input, &mut chunk, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    zlib.set_dictionary(&DICTIONARY).map_err(|_| Violation::Compression)?;
                    Status::Ok
                }
                Err(_) => return Err(Violation::Compression),
            };
            let taken = usize::try_from(zlib.total_in() - before_in).map_err(|_| Violation::Compression)?;
            let made = usize::try_from(zlib.total_out() - before_out).map_err(|_| Violation::Compression)?;
            input = input.get(taken..).ok_or(Violation::Compression)?;
            output.extend_from_slice(chunk.get(..made).ok_or(Violation::Compression)?);
            if output.len() > MAX_BLOCK {
                return Err(Violation::Bomb(MAX_BLOCK));
            }
            if status == Status::StreamEnd {
                return Err(Violation::Compression);
            }
            if input.is_empty() && made < chunk.len() {
                return Ok(output);
            }
            if taken == 0 && made == 0 && status == Status::BufError {
                return Err(Violation::Compression);
            }
        }
    }
}

impl Deflater {
    /// The next block, which holds no headers.
    pub(super) fn empty_block(&mut self) -> Vec<u8> {
        /// Deflate, a window of 32 KiB, a preset dictionary, and the dictionary's checksum.
        const BEGIN: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
        /// A stored block of the four bytes of the number 0, and an empty one: clients pass on what came before it.
        const NONE: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let begin: &[u8] = if self.begun { &[] } else { &BEGIN };
        self.begun = true;
        [begin, &NONE].concat()
    }
}

/// The bytes that both compression states start with: words with their lengths, then text.
pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for word in WORDS {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
});

#[rustfmt::skip]
const WORDS: [&str; 65] = [
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding",
    "accept-language", "accept-ranges", "age", "allow", "authorization", "cache-control", "connection",
    "content-base", "content-encoding", "content-language", "content-length", "content-location", "content-md5",
    "content-range", "content-type", "date", "etag", "expect", "expires", "from", "host", "if-match",
    "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified", "location",
    "max-forwards", "pragma", "proxy-authenticate", "proxy-authorization", "range", "referer", "retry-after",
    "server", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning",
    "www-authenticate", "method", "get", "status", "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie",
    "keep-alive", "origin",
];

const TEXT: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authori",
    "tative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not ",
    "Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug S",
    "ept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,imag",
    "e/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,",
    "sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    /// A peer's compressor, with its own flush after each block.
    struct Peer(Compress);

    impl Peer {
        fn new() -> Self {
            let mut zlib = Compress::new(Compression::best(), true);
            zlib.set_dictionary(&DICTIONARY).unwrap();
            Self(zlib)
        }

        fn block(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(plain.len() + 1024);
            self.0.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
            out
        }
    }

    fn plain(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut block = (pairs.len() as u32).to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        block
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_protocol() {
        assert_eq!(DICTIONARY.len(), 1423);
        let checksum = Compress::new(Compression::fast(), true).set_dictionary(&DICTIONARY).unwrap();
        assert_eq!(checksum, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_of_one_connection_share_their_state() {
        let (mut peer, mut inflater) = (Peer::new(), Inflater::default());
        for kind in ["error", "stdin", "stdout"] {
            let headers = inflater.read(&peer.block(&plain(&[("streamtype", kind), ("port", "80\x0081")]))).unwrap();
            assert_eq!(headers.get("streamtype"), Some(kind));
            assert_eq!(headers.get("port"), Some("80"));
            assert_eq!(headers.get("host"), None);
        }
    }

    #[test]
    fn a_block_made_by_hand_is_read() {
        // Stored: the dictionary's checksum, then `streamtype: error` as it is.
        let block = plain(&[("streamtype", "error")]);
        let length = block.len() as u8;
        let mut bytes = vec![0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0, length, 0, !length, 0xff];
        bytes.extend(&block);
        bytes.extend([0, 0, 0, 0xff, 0xff]);
        assert_eq!(Inflater::default().read(&bytes).unwrap().get("streamtype"), Some("error"));
    }

    #[test]
    fn our_blocks_are_read_by_any_inflater() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for _ in 0..3 {
            assert_eq!(inflater.read(&deflater.empty_block()), Ok(Headers::default()));
        }
    }

    #[test]
    fn a_bomb_is_not_let_off() {
        let bomb = Peer::new().block(&vec![0; 16 * 1024 * 1024]);
        assert!(bomb.len() < 32 * 1024, "{}", bomb.len());
        assert_eq!(Inflater::default().read(&bomb), Err(Violation::Bomb(MAX_BLOCK)));
    }

    #[test]
    fn blocks_that_do_not_hold_what_they_promise_are_violations() {
        let good = plain(&[("a", "b")]);
        let mut promised = good.clone();
        promised[3] = 2;
        let mut long = good.clone();
        long[4..8].copy_from_slice(&[0xff; 4]);
        for block in [
            &[][..],
            &good[..good.len() - 1],
            &[&good[..], b"x"].concat(),
            &promised,
            &long,
            &plain(&[("a", "b"), ("a", "c")]),
            &plain(&[("", "b")]),
            &plain(&[("Aa", "b")]),
            &[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0],
        ] {
            assert_eq!(Headers::parse(block), Err(Violation::HeaderBlock), "{block:?}");
        }
        for noise in [&b"not zlib"[..], &[0x78, 0xbb, 1, 2, 3, 4, 0]] {
            assert_eq!(Inflater::default().read(noise), Err(Violation::Compression));
        }
    }
}
