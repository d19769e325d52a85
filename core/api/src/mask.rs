//! Field masks: which fields of a record an update changes.
//!
//! Without a mask an update sets all that can be set. A path is a field, or one entry of a map as `labels.<key>`, whose
//! key may have dots itself. An entry that is set to nothing goes away. Source: containerd, `core/metadata`.

use std::collections::BTreeMap;

use prost_types::FieldMask;
use tonic::Status;

/// The paths of a mask; none where the update sets everything.
pub(crate) fn paths(mask: Option<FieldMask>) -> Vec<String> {
    mask.map(|mask| mask.paths).unwrap_or_default()
}

/// Refuses a path that is neither one of `fields` nor an entry of one of `maps`.
pub(crate) fn check(paths: &[String], what: &str, fields: &[&str], maps: &[&str]) -> Result<(), Status> {
    let known =
        |path: &str| fields.contains(&path) || maps.iter().any(|map| path == *map || entry(path, map).is_some());
    match paths.iter().find(|path| !known(path)) {
        Some(path) => Err(Status::invalid_argument(format!("{what} has no field {path:?} to update"))),
        None => Ok(()),
    }
}

/// True where an update sets the whole of `field`.
pub(crate) fn sets(paths: &[String], field: &str) -> bool {
    paths.is_empty() || paths.iter().any(|path| path == field)
}

/// Changes of the map `name` what the mask names to what is wanted.
pub(crate) fn merge<V>(now: &mut BTreeMap<String, V>, mut wanted: BTreeMap<String, V>, paths: &[String], name: &str) {
    if sets(paths, name) {
        *now = wanted;
        return;
    }
    for key in paths.iter().filter_map(|path| entry(path, name)) {
        match wanted.remove(key) {
            Some(value) => drop(now.insert(key.to_owned(), value)),
            None => drop(now.remove(key)),
        }
    }
}

/// As [`merge`] for a map of texts, where an empty one is nothing.
pub(crate) fn merge_texts(
    now: &mut BTreeMap<String, String>,
    wanted: impl IntoIterator<Item = (String, String)>,
    paths: &[String],
    name: &str,
) {
    merge(now, wanted.into_iter().collect(), paths, name);
    now.retain(|_, value| !value.is_empty());
}

/// The key of the entry of the map `name` that a path names.
fn entry<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    path.strip_prefix(name)?.strip_prefix('.').filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn mask(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn a_mask_changes_only_what_it_names() {
        let mut now = texts(&[("a", "1"), ("b", "1"), ("c.d", "1"), ("e", "1")]);
        let paths = mask(&["labels.a", "labels.c.d", "labels.e"]);
        merge_texts(&mut now, texts(&[("a", "2"), ("b", "2"), ("e", "")]), &paths, "labels");
        assert_eq!(now, texts(&[("a", "2"), ("b", "1")]));
        merge_texts(&mut now, texts(&[("z", "1")]), &[], "labels");
        assert_eq!(now, texts(&[("z", "1")]));
        merge_texts(&mut now, texts(&[("y", "1")]), &mask(&["other", "labels"]), "labels");
        assert_eq!(now, texts(&[("y", "1")]));
        merge_texts(&mut now, texts(&[("x", "1")]), &mask(&["other"]), "labels");
        assert_eq!(now, texts(&[("y", "1")]));
    }

    #[test]
    fn a_path_that_is_no_field_is_refused() {
        let check = |path: &str| check(&mask(&[path]), "an image", &["target"], &["labels"]);
        for good in ["target", "labels", "labels.a", "labels.a.b"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "name", "target.size", "labelsx", "labels.", "Labels"] {
            assert_eq!(check(bad).expect_err("refused").code(), tonic::Code::InvalidArgument, "{bad}");
        }
    }
}
