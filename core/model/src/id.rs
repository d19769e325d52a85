//! Names that clients choose, checked once at the border: namespaces and the ids of everything inside them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest identifier, in bytes, as containerd has it.
pub const MAX_LENGTH: usize = 76;

/// True for containerd's identifiers: runs of letters and digits joined by single `.`, `_` or `-`, at most
/// [`MAX_LENGTH`] bytes. Such a name is safe as a path component.
pub fn is_identifier(text: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LENGTH
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.windows(2).all(|pair| alphanumeric(pair.first()) || alphanumeric(pair.last()))
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// The longest lease id, in bytes.
pub const MAX_LEASE_LENGTH: usize = 256;

/// True for what may name a lease: visible ASCII, as it travels in a header. containerd does not look at lease ids, and its
/// clients make such as `519466803-3X_-`, which is no [identifier](is_identifier).
pub fn is_lease_id(text: &str) -> bool {
    (1..=MAX_LEASE_LENGTH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $good:ident, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                if $good(&text) {
                    Ok(Self(text))
                } else {
                    Err(Error::invalid(format!(concat!($what, " {:?} is not ", $rule), text)))
                }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier!(
    /// A tenant of the core: everything but blobs belongs to exactly one.
    Namespace,
    "namespace",
    is_identifier,
    "an identifier: letters and digits joined by '.', '_' or '-', at most 76 bytes"
);
identifier!(
    /// The id of a container, a sandbox or an exec inside its namespace.
    Id,
    "id",
    is_identifier,
    "an identifier: letters and digits joined by '.', '_' or '-', at most 76 bytes"
);
identifier!(
    /// The id of a lease inside its namespace. Not safe as a path component.
    LeaseId,
    "lease id",
    is_lease_id,
    "visible ASCII of at most 256 bytes"
);

macro_rules! path_component {
    ($name:ident) => {
        impl AsRef<std::path::Path> for $name {
            fn as_ref(&self) -> &std::path::Path {
                std::path::Path::new(&self.0)
            }
        }
    };
}

path_component!(Namespace);
path_component!(Id);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_containerd() {
        for good in ["a", "k8s.io", "a-b_c.d", "0", &"x".repeat(76)] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a-", "a..b", "a/b", "a b", "ä", &"x".repeat(77)] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }

    #[test]
    fn lease_ids_are_what_fits_a_header() {
        for good in ["a", "519466803-3X_-", "moby/build:1", &"x".repeat(256)] {
            assert!(is_lease_id(good), "{good}");
        }
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(257)] {
            assert!(!is_lease_id(bad), "{bad}");
        }
    }
}
