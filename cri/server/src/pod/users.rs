//! A pod's user namespace: what the request asks for, checked, and where it is pinned.

use std::path::{Path, PathBuf};

use windlass_cri_api::v1;
use windlass_model::{Error, Id, Result};
use windlass_sys::idmap::{IdMap, Range};

/// The map that `asked` means; `None`: the host's own ids. `field` is its name in errors.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] naming the field.
pub(crate) fn map(asked: Option<&v1::UserNamespace>, field: &str) -> Result<Option<IdMap>> {
    let Some(asked) = asked else { return Ok(None) };
    let wrong = |part: &str, why: &str| Error::invalid(format!("{field}.{part} {why}"));
    match v1::NamespaceMode::try_from(asked.mode) {
        Ok(v1::NamespaceMode::Pod) => ids(&asked.uids, &asked.gids, field).map(Some),
        Ok(v1::NamespaceMode::Node) if asked.uids.is_empty() && asked.gids.is_empty() => Ok(None),
        Ok(v1::NamespaceMode::Node) => {
            let part = if asked.uids.is_empty() { "gids" } else { "uids" };
            Err(wrong(part, "stand beside mode NODE, which has no mappings"))
        }
        Ok(other) => Err(wrong("mode", &format!("{} makes no sense for users", other.as_str_name()))),
        Err(_) => Err(wrong("mode", &format!("{} is unknown", asked.mode))),
    }
}

/// The map of two lists of mappings.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] naming the list.
pub(crate) fn ids(uids: &[v1::IdMapping], gids: &[v1::IdMapping], field: &str) -> Result<IdMap> {
    let ranges = |list: &[v1::IdMapping]| {
        let range = |one: &v1::IdMapping| Range { inside: one.container_id, outside: one.host_id, length: one.length };
        list.iter().map(range).collect()
    };
    IdMap::new(ranges(uids), ranges(gids)).map_err(|error| Error::invalid(format!("{field}.{error}")))
}

/// Where the user namespace of a pod is pinned.
pub(crate) fn pin(state: &Path, pod: &Id) -> PathBuf {
    state.join("userns").join(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(mode: v1::NamespaceMode, uids: &[(u32, u32, u32)]) -> v1::UserNamespace {
        let one = |(host_id, container_id, length): &(u32, u32, u32)| v1::IdMapping {
            host_id: *host_id,
            container_id: *container_id,
            length: *length,
        };
        let gids = vec![one(&(7, 0, 1))];
        v1::UserNamespace { mode: mode as i32, uids: uids.iter().map(one).collect(), gids }
    }

    #[test]
    fn mappings_become_a_map() {
        let found = map(Some(&asked(v1::NamespaceMode::Pod, &[(100_000, 0, 10)])), "x").unwrap().unwrap();
        assert_eq!((found.uid(9), found.root()), (Some(100_009), (100_000, 7)));
        assert_eq!(map(None, "x").unwrap(), None);
        let node = v1::UserNamespace { mode: v1::NamespaceMode::Node as i32, ..Default::default() };
        assert_eq!(map(Some(&node), "x").unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (mode, uids, why) in [
            (v1::NamespaceMode::Pod, vec![], "x.uids"),
            (v1::NamespaceMode::Pod, vec![(1, 0, 0)], "x.uids"),
            (v1::NamespaceMode::Pod, vec![(1, 0, 5), (3, 9, 5)], "overlap"),
            (v1::NamespaceMode::Node, vec![(1, 0, 1)], "x.uids"),
            (v1::NamespaceMode::Container, vec![(1, 0, 1)], "x.mode"),
        ] {
            let error = map(Some(&asked(mode, &uids)), "x").unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
