//! What an imported image is called: by the annotations of its entry in the archive's index, as a client wants them taken.

use std::collections::BTreeMap;

use windlass_model::{Digest, Reference};

/// The full name, as containerd and Docker write it.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
/// The tag, or the full name (OCI image spec 1.1, `annotations.md`).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Names that a client wants images to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The beginning of the names, without a tag.
    pub prefix: String,
    /// Whether a full name in the archive counts, too, where it does not begin like this.
    pub allow_overwrite: bool,
    /// Whether each image is also known by its digest.
    pub add_digest: bool,
    /// Whether it is known by its digest only where it has no other name.
    pub skip_named_digest: bool,
}

impl Wanted {
    /// The names of the image `digest` with these annotations.
    pub(crate) fn names(&self, annotations: &BTreeMap<String, String>, digest: &Digest) -> Vec<String> {
        let named = self.named(annotations);
        let by_digest = || format!("{}@{digest}", self.prefix);
        let digested = self.add_digest && !self.prefix.is_empty() && !(self.skip_named_digest && named.is_some());
        named.into_iter().chain(digested.then(by_digest)).collect()
    }

    fn named(&self, annotations: &BTreeMap<String, String>) -> Option<String> {
        let full = annotations.get(IMAGE_NAME).filter(|name| !name.is_empty());
        match full.or_else(|| annotations.get(REF_NAME).filter(|name| !name.is_empty())) {
            Some(name) if name.contains(['/', ':', '@']) => {
                (self.allow_overwrite || begins(name, &self.prefix)).then(|| name.clone())
            }
            Some(tag) if !self.prefix.is_empty() => Some(format!("{}:{tag}", self.prefix)),
            _ => None,
        }
    }
}

/// True where `name` is `prefix` or something of it.
fn begins(name: &str, prefix: &str) -> bool {
    !prefix.is_empty()
        && name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

/// The annotations that tell an image's name.
pub(crate) fn annotate(annotations: &mut BTreeMap<String, String>, name: &str) {
    let tag = name.parse::<Reference>().ok().filter(|parsed| parsed.digest().is_none());
    // A name that is no reference, and one by digest, have no tag.
    let tag = tag.and_then(|parsed| parsed.tag().map(str::to_owned)).filter(|tag| name.ends_with(&format!(":{tag}")));
    annotations.insert(IMAGE_NAME.into(), name.into());
    annotations.insert(REF_NAME.into(), tag.unwrap_or_else(|| name.into()));
}

/// A name as Docker shows it: without its own registry.
pub(crate) fn familiar(name: &str) -> Option<String> {
    let reference: Reference = name.parse().ok()?;
    let tag = reference.tagged().filter(|_| reference.digest().is_none())?;
    let short = tag.strip_prefix("docker.io/").unwrap_or(&tag);
    Some(short.strip_prefix("library/").filter(|_| tag.starts_with("docker.io/")).unwrap_or(short).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_are_taken_as_the_client_wants_them() {
        let digest = Digest::of(b"x");
        let by_digest = format!("import@{digest}");
        let wanted =
            Wanted { prefix: "import".into(), allow_overwrite: true, add_digest: true, skip_named_digest: true };
        let full = annotations(&[(IMAGE_NAME, "docker.io/library/a:1"), (REF_NAME, "1")]);
        assert_eq!(wanted.names(&full, &digest), ["docker.io/library/a:1"]);
        assert_eq!(wanted.names(&annotations(&[(REF_NAME, "1")]), &digest), ["import:1"]);
        assert_eq!(wanted.names(&annotations(&[]), &digest), [by_digest.as_str()]);
        let both = Wanted { skip_named_digest: false, ..wanted.clone() };
        assert_eq!(both.names(&annotations(&[(REF_NAME, "1")]), &digest), ["import:1", &by_digest]);
        let strict = Wanted { prefix: "docker.io/library/a".into(), ..Wanted::default() };
        assert_eq!(strict.names(&full, &digest), ["docker.io/library/a:1"]);
        let other = Wanted { prefix: "docker.io/library/ab".into(), ..Wanted::default() };
        assert_eq!(other.names(&full, &digest), [""; 0]);
        assert_eq!(Wanted::default().names(&annotations(&[(REF_NAME, "1")]), &digest), [""; 0]);
    }

    #[test]
    fn names_are_written_as_others_read_them() {
        let mut out = BTreeMap::new();
        annotate(&mut out, "docker.io/library/a:1");
        assert_eq!(out, annotations(&[(IMAGE_NAME, "docker.io/library/a:1"), (REF_NAME, "1")]));
        annotate(&mut out, "not a reference");
        assert_eq!(out[REF_NAME], "not a reference");
        assert_eq!(familiar("docker.io/library/a:1").as_deref(), Some("a:1"));
        assert_eq!(familiar("docker.io/b/a:1").as_deref(), Some("b/a:1"));
        assert_eq!(familiar("quay.io/library/a:1").as_deref(), Some("quay.io/library/a:1"));
        assert_eq!(familiar(&format!("a@{}", Digest::of(b""))), None);
    }
}
