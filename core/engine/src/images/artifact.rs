//! Artifacts: manifests whose layers are no layers but files, each with its name in an annotation of its descriptor.
//!
//! The name is `org.opencontainers.image.title` (OCI image spec, annotations) or, where that is missing,
//! `org.cncf.model.filepath` (CNCF model-format spec). A blob without a name belongs to the artifact and is no file of
//! it. Blobs are not looked into: a tar stays a tar. All files lie in one committed snapshot, so that an artifact is mounted,
//! counted and collected as an image is.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use windlass_model::{Context, Descriptor, Digest, Error, Result};

/// The annotations that name a file; the first that is there counts.
const NAMES: [&str; 2] = ["org.opencontainers.image.title", "org.cncf.model.filepath"];
/// The most bytes that one artifact may have: 1 TiB.
const MAX_SIZE: u64 = 1 << 40;
/// The longest name of a file, and the longest word in it, in bytes, as Linux has them.
const MAX_NAME: (usize, usize) = (4095, 255);

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArtifactFile {
    /// Where it lies in the volume.
    pub(crate) path: PathBuf,
    /// Its bytes.
    pub(crate) digest: Digest,
}

/// The name of the snapshot that holds the files of the artifact with this manifest.
pub(crate) fn snapshot_name(manifest: &Digest) -> Digest {
    Digest::of(format!("artifact {manifest}").as_bytes())
}

/// The files that the blobs of a manifest are.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for a name that leads out of the artifact or that two files claim, and for
/// more bytes than an artifact may have.
pub(crate) fn files(layers: &[Descriptor]) -> Result<Vec<ArtifactFile>> {
    if layers.is_empty() {
        return Err(Error::invalid("the artifact has no blobs"));
    }
    let total = layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    if total > MAX_SIZE {
        return Err(Error::invalid(format!("the artifact has {total} bytes; the limit is {MAX_SIZE}")));
    }
    let mut files: BTreeMap<PathBuf, Digest> = BTreeMap::new();
    for layer in layers {
        let Some(name) = NAMES.iter().find_map(|key| layer.annotations.get(*key)) else { continue };
        let path = checked(name)?;
        if files.insert(path, layer.digest).is_some() {
            return Err(Error::invalid(format!("the artifact has two files of the name {name:?}")));
        }
    }
    for path in files.keys() {
        if let Some(folder) = path.ancestors().skip(1).find(|folder| files.contains_key(*folder)) {
            let folder = folder.display().to_string();
            return Err(Error::invalid(format!("the artifact has {folder:?} as a file and as a folder")));
        }
    }
    Ok(files.into_iter().map(|(path, digest)| ArtifactFile { path, digest }).collect())
}

/// A relative path of plain words.
fn checked(name: &str) -> Result<PathBuf> {
    let path: PathBuf = Path::new(name).components().filter(|part| *part != Component::CurDir).collect();
    let plain = path.components().all(|part| matches!(part, Component::Normal(word) if word.len() <= MAX_NAME.1));
    if !plain || path.as_os_str().is_empty() || name.len() > MAX_NAME.0 || name.contains('\0') || name.ends_with('/') {
        return Err(Error::invalid(format!("the artifact names a file {name:?}, which is no path below it")));
    }
    Ok(path)
}

/// Copies the files into an empty folder, readable for everyone, sharing their bytes where the file system can. Blocks.
///
/// # Errors
/// What the file system answers.
pub(crate) fn fill(folder: &Path, files: &[ArtifactFile], blob: impl Fn(&Digest) -> PathBuf) -> Result<()> {
    for file in files {
        let doing = || format!("file {} of the artifact", file.path.display());
        let target = folder.join(&file.path);
        if let Some(parent) = target.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent).context(doing)?;
        }
        fs::copy(blob(&file.digest), &target).context(doing)?;
        fs::set_permissions(&target, Permissions::from_mode(0o644)).context(doing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: Option<&str>, key: &str) -> Descriptor {
        Descriptor {
            media_type: "text/plain".into(),
            digest: Digest::of(name.unwrap_or_default().as_bytes()),
            size: 1,
            platform: None,
            annotations: name.map(|name| (key.to_owned(), name.to_owned())).into_iter().collect(),
            urls: Vec::new(),
        }
    }

    #[test]
    fn a_file_is_named_by_an_annotation() {
        let layers = [layer(Some("./b/c"), NAMES[0]), layer(Some("a"), NAMES[1]), layer(None, NAMES[0])];
        let paths: Vec<_> = files(&layers).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(paths, [PathBuf::from("a"), PathBuf::from("b/c")]);
    }

    #[test]
    fn a_name_stays_in_the_artifact() {
        let long = "x".repeat(256);
        for name in ["", ".", "/etc/passwd", "../x", "a/../../x", "a/", "a\0b", &long] {
            assert!(files(&[layer(Some(name), NAMES[0])]).is_err(), "{name:?}");
        }
        for pair in [["a", "./a"], ["a", "a/b"]] {
            assert!(files(&pair.map(|name| layer(Some(name), NAMES[0]))).is_err(), "{pair:?}");
        }
        let huge = Descriptor { size: u64::MAX, ..layer(Some("a"), NAMES[0]) };
        assert!(files(&[huge.clone(), huge]).is_err());
    }

    #[test]
    fn files_are_copied_with_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        let (blobs, target) = (folder.path().join("blobs"), folder.path().join("target"));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&target).unwrap();
        let files = files(&[layer(Some("a/b"), NAMES[0])]).unwrap();
        fs::write(blobs.join(files[0].digest.hex()), "bytes").unwrap();
        fill(&target, &files, |digest| blobs.join(digest.hex())).unwrap();
        assert_eq!(fs::read(target.join("a/b")).unwrap(), b"bytes");
        assert_eq!(fs::metadata(target.join("a/b")).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
