//! The command line that containerd's shim protocol gives: Go's flags, with one dash or two, then a verb.

use std::path::PathBuf;

use windlass_model::{Context, Error, Id, Namespace, Result};

/// What was asked.
#[derive(Debug)]
pub struct Flags {
    /// Whose tasks these are.
    pub namespace: Namespace,
    /// The pod, or the one container.
    pub id: Id,
    /// The folder of the pod.
    pub bundle: PathBuf,
    /// For `serve`: the descriptor of the listening socket.
    pub listen: i32,
    /// `start`, `delete` or `serve`.
    pub verb: String,
}

impl Flags {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for what is missing or unknown.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut namespace, mut id, mut bundle, mut listen, mut verb) = (None, None, None, 0, String::new());
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix('-').map(|flag| flag.trim_start_matches('-')) else {
                verb = argument;
                continue;
            };
            let (flag, given) = match flag.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (flag, None),
            };
            if flag == "debug" {
                continue;
            }
            let missing = || Error::invalid(format!("flag -{flag} has no value"));
            let value = given.or_else(|| arguments.next()).ok_or_else(missing)?;
            match flag {
                "namespace" => namespace = Some(value.parse()?),
                "id" => id = Some(value.parse()?),
                "bundle" => bundle = Some(PathBuf::from(value)),
                "listen" => {
                    listen = value.parse().map_err(|_| Error::invalid(format!("descriptor {value:?}")))?;
                }
                "address" | "publish-binary" | "socket" => {}
                _ => return Err(Error::invalid(format!("unknown flag -{flag}"))),
            }
        }
        let here = || std::env::current_dir().context(|| "find the bundle".into());
        Ok(Self {
            namespace: namespace.ok_or_else(|| Error::invalid("flag -namespace is missing"))?,
            id: id.ok_or_else(|| Error::invalid("flag -id is missing"))?,
            bundle: bundle.map_or_else(here, Ok)?,
            listen,
            verb,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags> {
        Flags::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn flags_are_those_of_containerd() {
        let flags =
            parse("-namespace k8s.io --id=p1 -address /run/x -publish-binary  -bundle /b -debug start").unwrap();
        assert_eq!((flags.namespace.as_str(), flags.id.as_str(), flags.verb.as_str()), ("k8s.io", "p1", "start"));
        assert_eq!(flags.bundle, PathBuf::from("/b"));
    }

    #[test]
    fn what_is_missing_or_unknown_is_refused() {
        for bad in
            ["start", "-namespace a start", "-namespace a -id ../b start", "-namespace a -id b -what c start", "-id"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
