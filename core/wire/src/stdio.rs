//! How a task's input and output are described on the wire: a path or a URI in `stdin`, `stdout` and `stderr`.
//!
//! Empty is nothing (`/dev/null`); a bare path or `fifo://` is a named pipe; `file://` a file that is appended to;
//! `binary://` a logging program (containerd's words); `cri-log://` is ours: the log file of a container in the CRI's
//! format, written by the shim. `attach://` is ours too: nothing but the clients that attach; as input it is open until
//! it is closed, with `attach://once` as soon as one client has closed its own.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use windlass_model::{Error, Result};

/// The longest piece of a line that one CRI log entry holds, in bytes, where the URI names none.
pub const DEFAULT_MAX_LINE: usize = 16 * 1024;

/// Where one stream goes or comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdio {
    /// Nowhere.
    #[default]
    Null,
    /// A named pipe.
    Fifo(PathBuf),
    /// A file, appended to.
    File(PathBuf),
    /// A logging program, with its arguments, as the URI has them.
    Binary(String),
    /// The CRI log file of a container; stdout and stderr name the same one.
    CriLog {
        /// The file.
        path: PathBuf,
        /// The longest piece of a line in one entry, in bytes.
        max_line: usize,
    },
    /// The clients that attach.
    Attach {
        /// Input ends with the first client's.
        once: bool,
    },
}

impl FromStr for Stdio {
    type Err = Error;

    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for an unknown scheme, a relative path or a wrong number.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| Error::invalid(format!("stdio {text:?} {why}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text {
                "" => Ok(Self::Null),
                path if path.starts_with('/') => Ok(Self::Fifo(path.into())),
                _ => Err(refuse("is neither empty, an absolute path nor a URI")),
            };
        };
        if scheme == "binary" {
            return Ok(Self::Binary(text.into()));
        }
        if scheme == "attach" {
            return match rest {
                "" => Ok(Self::Attach { once: false }),
                "once" => Ok(Self::Attach { once: true }),
                _ => Err(refuse("has an unknown option")),
            };
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = unescape(path).filter(|path| path.starts_with('/')).ok_or_else(|| refuse("has no absolute path"))?;
        match scheme {
            "fifo" => Ok(Self::Fifo(path.into())),
            "file" => Ok(Self::File(path.into())),
            "cri-log" => {
                let mut max_line = DEFAULT_MAX_LINE;
                for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                    max_line = match pair.split_once('=') {
                        Some(("max_line", number)) => number.parse().map_err(|_| refuse("has a wrong max_line"))?,
                        _ => return Err(refuse("has an unknown option")),
                    };
                }
                if max_line == 0 {
                    return Err(refuse("has a wrong max_line"));
                }
                Ok(Self::CriLog { path: path.into(), max_line })
            }
            _ => Err(refuse("has an unknown scheme")),
        }
    }
}

impl fmt::Display for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Fifo(path) => write!(f, "{}", path.display()),
            Self::File(path) => write!(f, "file://{}", escape(&path.to_string_lossy())),
            Self::Binary(uri) => f.write_str(uri),
            Self::CriLog { path, max_line } => {
                write!(f, "cri-log://{}?max_line={max_line}", escape(&path.to_string_lossy()))
            }
            Self::Attach { once: false } => f.write_str("attach://"),
            Self::Attach { once: true } => f.write_str("attach://once"),
        }
    }
}

/// Percent-encodes what would end or change a path in a URI.
fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for letter in path.chars() {
        match letter {
            '%' => escaped.push_str("%25"),
            '?' => escaped.push_str("%3F"),
            '#' => escaped.push_str("%23"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// Undoes percent-encoding; nothing where it is broken.
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips() {
        for stdio in [
            Stdio::Null,
            Stdio::Fifo("/run/a b".into()),
            Stdio::File("/var/log/a%b?c#d".into()),
            Stdio::Binary("binary:///bin/logger?a=b".into()),
            Stdio::CriLog { path: "/var/log/pods/ns_n_u/c/0.log".into(), max_line: 16384 },
            Stdio::CriLog { path: "/ä/?&=".into(), max_line: 1 },
            Stdio::Attach { once: false },
            Stdio::Attach { once: true },
        ] {
            assert_eq!(stdio.to_string().parse::<Stdio>().unwrap(), stdio);
        }
    }

    #[test]
    fn the_default_line_is_16_kib() {
        assert_eq!(
            "cri-log:///a".parse::<Stdio>().unwrap(),
            Stdio::CriLog { path: "/a".into(), max_line: DEFAULT_MAX_LINE }
        );
        assert_eq!("fifo:///a".parse::<Stdio>().unwrap(), Stdio::Fifo("/a".into()));
    }

    #[test]
    fn rubbish_is_refused() {
        for bad in [
            "a",
            "fifo://a",
            "npipe:///a",
            "cri-log:///a?max_line=x",
            "cri-log:///a?max_line=0",
            "cri-log:///a?b=1",
            "file://",
            "file:///%zz",
            "file:///%",
            "attach://twice",
        ] {
            assert!(bad.parse::<Stdio>().is_err(), "{bad}");
        }
    }
}
