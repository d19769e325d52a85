//! Which images are never to be removed by the kubelet: those that the configuration names, and those that a label marks.

use windlass_engine::images::ImageRecord;
use windlass_model::{Error, Reference, Result};

/// The label of a pinned image, and its value: containerd's words.
const LABEL: (&str, &str) = ("io.cri-containerd.pinned", "pinned");

/// The images that the configuration pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins(Vec<Pin>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pin {
    /// The full name.
    Exact(String),
    /// What the full name begins with (`name*`).
    Begins(String),
    /// What the full name has somewhere (`*name*`).
    Holds(String),
}

impl Pins {
    /// Reads the patterns of the configuration: a reference, `beginning*` or `*part*`.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for any other text.
    pub(crate) fn parse(patterns: &[String]) -> Result<Self> {
        let pin = |pattern: &String| {
            let wrong = || Error::invalid(format!("pinned image {pattern:?} is not NAME, BEGINNING* or *PART*"));
            let inner = pattern.trim_matches('*');
            match (pattern.starts_with('*'), pattern.ends_with('*')) {
                _ if inner.is_empty() || inner.contains('*') => Err(wrong()),
                (false, false) => match pattern.parse::<Reference>() {
                    Ok(reference) => Ok(Pin::Exact(reference.to_string())),
                    Err(_) => Err(wrong()),
                },
                (false, true) => Ok(Pin::Begins(inner.to_owned())),
                (true, true) => Ok(Pin::Holds(inner.to_owned())),
                (true, false) => Err(wrong()),
            }
        };
        patterns.iter().map(pin).collect::<Result<_>>().map(Self)
    }

    /// True for a record of a pinned image.
    pub(super) fn hold(&self, record: &ImageRecord) -> bool {
        let name = &record.name;
        record.labels.get(LABEL.0).is_some_and(|value| value == LABEL.1)
            || self.0.iter().any(|pin| match pin {
                Pin::Exact(exact) => name == exact,
                Pin::Begins(beginning) => name.starts_with(beginning),
                Pin::Holds(part) => name.contains(part),
            })
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::{Descriptor, Digest};

    use super::*;

    fn record(name: &str) -> ImageRecord {
        let target = Descriptor {
            media_type: String::new(),
            digest: Digest::of(b"m"),
            size: 1,
            platform: None,
            annotations: Default::default(),
            urls: vec![],
        };
        ImageRecord::new(name, target)
    }

    #[test]
    fn patterns_pin_names() {
        let pins = |pattern: &str| Pins::parse(&[pattern.to_owned()]).unwrap();
        let name = "docker.io/library/busybox:1";
        for (pattern, holds) in [
            ("busybox:1", true),
            ("busybox", false),
            ("docker.io/library/*", true),
            ("quay.io/*", false),
            ("*/busybox*", true),
        ] {
            assert_eq!(pins(pattern).hold(&record(name)), holds, "{pattern}");
        }
        let mut labelled = record(name);
        assert!(!Pins::default().hold(&labelled));
        labelled.labels.insert(LABEL.0.into(), LABEL.1.into());
        assert!(Pins::default().hold(&labelled));
    }

    #[test]
    fn other_patterns_are_refused() {
        for pattern in ["", "*", "**", "a*b", "*a", "A B", "*a*b*"] {
            assert!(Pins::parse(&[pattern.to_owned()]).is_err(), "{pattern:?}");
        }
    }
}
