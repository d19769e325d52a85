//! What a shim prints once it has started, and writes to its bundle: how to reach it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use windlass_model::{Context, Error, Kind, Result};

use crate::words;

/// The answer to `start`: `{"version":3,"address":"unix:///…","protocol":"ttrpc"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The version of the task service: 2 or 3.
    pub version: u32,
    /// `unix://` and the socket's path.
    pub address: String,
    /// `ttrpc` or `grpc`.
    pub protocol: String,
}

impl Bootstrap {
    /// Task service 3 over ttrpc on the socket at `path`.
    pub fn ttrpc(path: &Path) -> Self {
        Self { version: 3, address: format!("unix://{}", path.display()), protocol: "ttrpc".into() }
    }

    /// Reads what a shim printed: JSON, or the bare address that shims of version 2 print.
    ///
    /// # Errors
    /// [`Kind::DataLoss`] where it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.starts_with('{') {
            return serde_json::from_str(text)
                .map_err(|error| Error::with_source(Kind::DataLoss, "bootstrap answer of a shim", error));
        }
        if text.starts_with("unix://") && !text.contains(char::is_whitespace) {
            return Ok(Self { version: 2, address: text.into(), protocol: "ttrpc".into() });
        }
        let shown: String = text.chars().take(200).collect();
        Err(Error::data_loss(format!("a shim answered to start with {shown:?}")))
    }

    /// As JSON, without a line end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the file in a bundle.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where the shim never came up; [`Kind::DataLoss`] for rubbish.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(words::BOOTSTRAP_FILE);
        let text = std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        Self::parse(&text)
    }

    /// The socket's path, where the address is a unix socket.
    pub fn socket(&self) -> Option<&Path> {
        self.address.strip_prefix("unix://").map(Path::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_round_trips() {
        let bootstrap = Bootstrap::ttrpc(Path::new("/run/x/s.sock"));
        assert_eq!(bootstrap.to_json(), r#"{"version":3,"address":"unix:///run/x/s.sock","protocol":"ttrpc"}"#);
        assert_eq!(Bootstrap::parse(&bootstrap.to_json()).unwrap(), bootstrap);
        assert_eq!(bootstrap.socket(), Some(Path::new("/run/x/s.sock")));
    }

    #[test]
    fn a_bare_address_is_version_two_and_rubbish_is_refused() {
        assert_eq!(Bootstrap::parse("unix:///a\n").unwrap().version, 2);
        for bad in ["", "{", "panic: runtime error", "unix:///a b"] {
            assert_eq!(Bootstrap::parse(bad).unwrap_err().kind(), Kind::DataLoss, "{bad}");
        }
    }
}
