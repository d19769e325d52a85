//! Texts of a mount that name what was mounted before it: `lowerdir={{ mount 0 }}`.
//!
//! ```text
//! {{ source N }}     the source of the mount with that number; of a loop device, the device
//! {{ target N }}     its target
//! {{ mount N }}      where it is mounted; of a loop device, a link to the device
//! {{ overlay M N }}  where all from M to N are mounted, in that order, with colons between
//! ```
//!
//! Go's templates, in which containerd has them, know more; nothing else of that is understood. Source: containerd,
//! `docs/mounts.md`.

use std::path::PathBuf;

use windlass_model::{Error, Mount, Result};
use windlass_sys::mount::join_overlay_folders;

use super::ActiveMount;

/// The longest text that may come of one, in bytes.
const LONGEST: usize = 64 << 10;

/// True where a mount names others.
pub(super) fn is_needed(mount: &Mount) -> bool {
    [&mount.source, &mount.target].into_iter().chain(&mount.options).any(|text| text.contains("{{"))
}

/// Fills in all texts of a mount.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for what is not understood and for a number that no mount before has.
pub(super) fn fill(mount: &Mount, before: &[ActiveMount]) -> Result<Mount> {
    Ok(Mount {
        kind: mount.kind.clone(),
        source: text(&mount.source, before)?,
        target: text(&mount.target, before)?,
        options: mount.options.iter().map(|option| text(option, before)).collect::<Result<_>>()?,
    })
}

fn text(template: &str, before: &[ActiveMount]) -> Result<String> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((plain, inner)) = rest.split_once("{{") {
        let (action, after) =
            inner.split_once("}}").ok_or_else(|| Error::invalid(format!("{template:?} has no end of {{{{")))?;
        filled.push_str(plain);
        filled.push_str(&value(action, before)?);
        if filled.len() > LONGEST {
            return Err(Error::invalid(format!("a text of a mount becomes longer than {LONGEST} bytes")));
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn value(action: &str, before: &[ActiveMount]) -> Result<String> {
    let words: Vec<&str> = action.split_whitespace().collect();
    let numbered = |word: &str| {
        let number: usize = word.parse().map_err(|_| Error::invalid(format!("{word:?} is no number of a mount")))?;
        before.get(number).map(|mount| (number, mount)).ok_or_else(|| {
            Error::invalid(format!("{{{{{action}}}}} names mount {number}, and there are {} before", before.len()))
        })
    };
    match words.as_slice() {
        ["source", number] => Ok(numbered(number)?.1.source()),
        ["target", number] => Ok(numbered(number)?.1.mount.target.clone()),
        ["mount", number] => Ok(numbered(number)?.1.point.display().to_string()),
        ["overlay", first, last] => {
            let ((first, _), (last, _)) = (numbered(first)?, numbered(last)?);
            let mut points: Vec<&PathBuf> =
                before[first.min(last)..=first.max(last)].iter().map(|mount| &mount.point).collect();
            if first > last {
                points.reverse();
            }
            join_overlay_folders(&points)
        }
        _ => Err(Error::invalid(format!("{{{{{action}}}}} is nothing that a mount can be filled in with"))),
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::{Kind, Timestamp};

    use super::*;

    fn before() -> Vec<ActiveMount> {
        let one = |number: usize| ActiveMount {
            mount: Mount { source: format!("/s/{number}"), target: format!("t{number}"), ..Mount::default() },
            point: format!("/m/{number}").into(),
            mounted_at: Timestamp::now(),
            device: (number == 2).then(|| "/dev/loop7".into()),
        };
        (0..3).map(one).collect()
    }

    #[test]
    fn names_of_mounts_before_are_filled_in() {
        for (template, filled) in [
            ("", ""),
            ("}}plain{", "}}plain{"),
            ("lowerdir={{ mount 0 }}/x:{{mount 1}}", "lowerdir=/m/0/x:/m/1"),
            ("{{ source 0 }}{{ target 1 }}", "/s/0t1"),
            ("{{ source 2 }} {{ mount 2 }}", "/dev/loop7 /m/2"),
            ("{{ overlay 0 2 }}", "/m/0:/m/1:/m/2"),
            ("{{ overlay 2 1 }}", "/m/2:/m/1"),
            ("{{ overlay 1 1 }}", "/m/1"),
        ] {
            assert_eq!(text(template, &before()).unwrap(), filled, "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for template in [
            "{{ mount 3 }}",
            "{{ mount -1 }}",
            "{{ overlay 0 3 }}",
            "{{ overlay 9 0 }}",
            "{{ mount 99999999999999999999 }}",
            "{{ mount }}",
            "{{ mount 0 0 }}",
            "{{ mount 0",
            "{{ }}",
            "{{ printf 0 }}",
            "{{ mount 0 | print }}",
        ] {
            assert_eq!(text(template, &before()).unwrap_err().kind(), Kind::InvalidArgument, "{template}");
        }
        let flood = "{{ overlay 0 2 }}".repeat(LONGEST / 10);
        assert_eq!(text(&flood, &before()).unwrap_err().kind(), Kind::InvalidArgument);
    }
}
