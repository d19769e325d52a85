//! `[registry]` and `[image_verifier]`: where images come from, and who says that they may be used.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use windlass_engine::images::VerifierConfig;

use super::optional_path;

/// `[registry]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRegistry {
    /// The folder of `hosts.toml` folders; empty: none.
    pub config_path: PathBuf,
}

impl Default for RawRegistry {
    fn default() -> Self {
        Self { config_path: "/etc/windlass/certs.d".into() }
    }
}

/// `[image_verifier]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawVerifier {
    /// The folder with the executables that are asked; empty: nobody is.
    pub bin_dir: PathBuf,
    /// How many of them, the first by name; negative: all.
    pub max_verifiers: i64,
    /// Seconds that each may take.
    pub per_verifier_timeout: u64,
}

impl Default for RawVerifier {
    fn default() -> Self {
        Self { bin_dir: PathBuf::new(), max_verifiers: 10, per_verifier_timeout: 10 }
    }
}

impl RawVerifier {
    pub(super) fn check(&self) -> Result<Option<VerifierConfig>> {
        let bin_dir = optional_path("image_verifier.bin_dir", &self.bin_dir)?;
        ensure!(self.max_verifiers != 0, "image_verifier.max_verifiers is 0: leave bin_dir empty to ask nobody");
        ensure!(self.per_verifier_timeout > 0, "image_verifier.per_verifier_timeout is 0 seconds");
        let per_verifier_timeout = Duration::from_secs(self.per_verifier_timeout);
        let max_verifiers = usize::try_from(self.max_verifiers).ok();
        Ok(bin_dir.map(|bin_dir| VerifierConfig { bin_dir, max_verifiers, per_verifier_timeout }))
    }
}
