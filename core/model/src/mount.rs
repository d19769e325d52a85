//! A mount as containerd's API has it: the word that lets snapshots and runtimes stay strangers.

use serde::{Deserialize, Serialize};

/// One mount to perform, in fstab's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The file-system type, or `bind`.
    pub kind: String,
    /// The device or the folder to bind.
    pub source: String,
    /// Where, relative to the root that the mounter chooses; mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Options as `mount(8)` takes them: `ro`, `rbind`, `lowerdir=…`.
    #[serde(default)]
    pub options: Vec<String>,
}
