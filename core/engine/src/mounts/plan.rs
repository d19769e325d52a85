//! What of an activation the engine does and what it leaves to the client; pure.
//!
//! Words before a type, `format/mkdir/overlay`, say what is done before the mount. The engine mounts everything before the
//! last mount that needs it: one with such words, or a loop device. A mount with words that is not a device is prepared and
//! left to the client, as are those after it. Everything is mounted here where the mounts are wanted for a while. Source:
//! containerd, `docs/mounts.md`.

use windlass_model::{Error, Mount, Result};

use super::options::Make;
use super::{ActiveMount, format, options};

/// The type of a mount that makes a file a device.
pub(super) const LOOP: &str = "loop";

/// The most mounts of one activation.
pub(super) const MOST: usize = 64;
/// The most options of one mount.
const MOST_OPTIONS: usize = 128;
/// The longest that all texts of an activation may be together, in bytes.
const LONGEST: usize = 256 << 10;
/// The longest name, in bytes.
const LONGEST_NAME: usize = 1024;

/// What is done for an activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What the engine mounts.
    pub(super) mounted: Vec<Step>,
    /// What it prepares, and the client mounts.
    pub(super) prepared: Option<Step>,
    /// What is the client's as it is.
    pub(super) left: Vec<Mount>,
}

/// One mount with what is done before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// As it was asked for, without the words before its type.
    mount: Mount,
    /// Its texts name mounts before it.
    format: bool,
    /// A file is to be made a file system.
    mkfs: bool,
    /// Folders are to be made.
    mkdir: bool,
}

impl Plan {
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for too much; [`windlass_model::Kind::Unimplemented`] where there is
    /// nothing for the engine to do, or for words that nobody knows.
    pub(super) fn new(name: &str, mounts: Vec<Mount>, temporary: bool) -> Result<Self> {
        if name.is_empty() || name.len() > LONGEST_NAME || mounts.is_empty() || mounts.len() > MOST {
            let message = format!("an activation needs a name of up to {LONGEST_NAME} bytes and up to {MOST} mounts");
            return Err(Error::invalid(message));
        }
        let length = |mount: &Mount| {
            let texts = [&mount.kind, &mount.source, &mount.target].into_iter().chain(&mount.options);
            texts.map(String::len).sum::<usize>()
        };
        if mounts.iter().map(length).sum::<usize>() > LONGEST
            || mounts.iter().any(|mount| mount.options.len() > MOST_OPTIONS)
        {
            let message = format!("mounts with more than {LONGEST} bytes of text, or {MOST_OPTIONS} options each");
            return Err(Error::invalid(message));
        }
        let mut steps: Vec<Step> = mounts.iter().map(|mount| Step::new(mount.clone())).collect();
        let ended = |(number, step): (usize, &Step)| {
            if temporary || step.mount.kind == LOOP {
                return Some(number + 1);
            }
            step.is_special().then_some(number)
        };
        let Some(end) = steps.iter().enumerate().rev().find_map(ended) else {
            return Err(Error::unimplemented("these mounts need no daemon: the client makes them"));
        };
        let mut rest = steps.split_off(end).into_iter();
        if let Some(step) = steps.iter().find(|step| step.mount.kind.contains('/')) {
            return Err(Error::unimplemented(format!("nothing here makes mounts of type {:?}", step.mount.kind)));
        }
        let prepared = rest.next().filter(Step::is_special);
        let left = mounts[end + usize::from(prepared.is_some())..].to_vec();
        Ok(Self { mounted: steps, prepared, left })
    }
}

impl Step {
    fn new(mut mount: Mount) -> Self {
        let mut step = Self::default();
        while let Some((word, rest)) = mount.kind.split_once('/') {
            match word {
                "format" => step.format = true,
                "mkfs" => step.mkfs = true,
                "mkdir" => step.mkdir = true,
                _ => break,
            }
            mount.kind = rest.to_owned();
        }
        Self { mount, ..step }
    }

    fn is_special(&self) -> bool {
        self.format || self.mkfs || self.mkdir
    }

    /// The mount as it is to be made, and what must be made before. Texts are filled in first, whatever the order of the words, as
    /// paths of folders name mounts, too.
    pub(super) fn ready(&self, before: &[ActiveMount]) -> Result<(Mount, Vec<Make>)> {
        // A path never has braces here, so nothing is lost where the word was forgotten, as in containerd's own examples.
        let mut mount = if self.format || format::is_needed(&self.mount) {
            format::fill(&self.mount, before)?
        } else {
            self.mount.clone()
        };
        let mut makes = Vec::new();
        if self.mkfs {
            makes.push(options::take_mkfs(&mut mount)?);
        }
        if self.mkdir {
            makes.extend(options::take_mkdir(&mut mount)?);
        }
        Ok((mount, makes))
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::Kind;

    use super::*;

    fn mounts(kinds: &[&str]) -> Vec<Mount> {
        kinds.iter().map(|kind| Mount { kind: (*kind).into(), ..Mount::default() }).collect()
    }

    /// How many the engine mounts, whether it prepares one, and how many are left.
    fn parts(kinds: &[&str], temporary: bool) -> Result<(usize, bool, usize)> {
        let plan = Plan::new("a", mounts(kinds), temporary)?;
        Ok((plan.mounted.len(), plan.prepared.is_some(), plan.left.len()))
    }

    #[test]
    fn the_engine_mounts_what_others_need() {
        for (kinds, temporary, expected) in [
            (&["format/overlay"][..], false, (0, true, 0)),
            (&["bind", "format/mkdir/overlay", "bind"], false, (1, true, 1)),
            (&["mkfs/loop", "ext4", "mkdir/format/overlay"], false, (2, true, 0)),
            (&["mkfs/loop", "ext4"], false, (1, false, 1)),
            (&["format/bind", "loop", "bind", "ext4"], false, (2, false, 2)),
            (&["bind", "tmpfs"], true, (2, false, 0)),
            (&["bind", "format/bind"], true, (2, false, 0)),
            (&["foo/bar", "loop"], false, (0, false, 0)),
        ] {
            match parts(kinds, temporary) {
                Ok(parts) => assert_eq!(parts, expected, "{kinds:?}"),
                Err(error) => {
                    assert!(kinds[0] == "foo/bar" && error.kind() == Kind::Unimplemented, "{kinds:?}: {error}")
                }
            }
        }
        for kinds in [&["bind"][..], &["ext4", "overlay"], &["foo/bar"], &["foo/format/bar"]] {
            assert_eq!(parts(kinds, false).unwrap_err().kind(), Kind::Unimplemented, "{kinds:?}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        let long = |text: &str, count: usize| text.repeat(count);
        let options =
            |count| vec![Mount { kind: "loop".into(), options: vec!["ro".into(); count], ..Mount::default() }];
        let text = vec![Mount { kind: "loop".into(), source: long("x", LONGEST + 1), ..Mount::default() }];
        for (name, mounts) in [
            (String::new(), mounts(&["loop"])),
            (long("n", LONGEST_NAME + 1), mounts(&["loop"])),
            ("a".into(), vec![]),
            ("a".into(), mounts(&["loop"; MOST + 1])),
            ("a".into(), options(MOST_OPTIONS + 1)),
            ("a".into(), text),
        ] {
            assert_eq!(Plan::new(&name, mounts, false).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }

    #[test]
    fn folders_are_named_after_texts_are_filled_in_and_options_go_with_their_words() {
        let option = "X-containerd.mkdir.path={{ mount 0 }}/up:0755".to_owned();
        let before = [ActiveMount { point: "/m/0".into(), ..ActiveMount::default() }];
        for kind in ["format/mkdir/overlay", "mkdir/format/overlay"] {
            let mount = Mount { kind: kind.into(), options: vec![option.clone(), "ro".into()], ..Mount::default() };
            let (ready, makes) = Step::new(mount).ready(&before).unwrap();
            assert_eq!((ready.kind.as_str(), ready.options), ("overlay", vec!["ro".to_owned()]));
            assert_eq!(makes.len(), 1);
        }
    }
}
