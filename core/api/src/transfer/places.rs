//! The places that a transfer names, read from their messages.

use containerd_client::types;
use containerd_client::types::transfer::{
    ImageExportStream, ImageImportStream, ImageReference, ImageStore, OciRegistry, RegistryResolver,
};
use prost_types::Any;
use windlass_engine::images::Wanted;
use windlass_engine::snapshots::driver_name;
use windlass_model::snapshotter::Labels;
use windlass_model::{Error, Platform, Result};

use crate::streaming::read;

/// The driver of a client that names none.
const DRIVER: &str = "overlay";
/// How many names, platforms and unpackings one message may list.
const MAX_LISTED: usize = 256;
/// The label of a name that goes with another one.
const GOES_WITH: &str = "containerd.io/gc.bref.image";

/// A place.
pub(super) enum Place {
    Registry(Registry),
    Store(Store),
    Import(Archive),
    Export(Archive),
}

/// A registry and what is wanted of it.
pub(super) struct Registry {
    pub(super) reference: String,
    pub(super) resolver: RegistryResolver,
}

/// The image store, and what of it is meant.
pub(super) struct Store {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) platforms: Vec<Platform>,
    references: Vec<ImageReference>,
    /// Machines and drivers.
    pub(super) unpacks: Vec<(Platform, String)>,
}

/// An archive that comes or goes over a stream.
pub(super) struct Archive {
    pub(super) stream: String,
    pub(super) force_compress: bool,
    pub(super) platforms: Vec<Platform>,
    pub(super) all_platforms: bool,
    pub(super) skip_docker: bool,
}

impl Place {
    pub(super) fn read(any: &Any) -> Result<Self> {
        if let Some(OciRegistry { reference, resolver }) = read(any)? {
            return Ok(Self::Registry(Registry { reference, resolver: resolver.unwrap_or_default() }));
        }
        if let Some(store) = read::<ImageStore>(any)? {
            return Store::new(store).map(Self::Store);
        }
        if let Some(ImageImportStream { stream, force_compress, .. }) = read(any)? {
            let (platforms, all_platforms, skip_docker) = Default::default();
            return Ok(Self::Import(Archive { stream, force_compress, platforms, all_platforms, skip_docker }));
        }
        if let Some(export) = read::<ImageExportStream>(any)? {
            return Ok(Self::Export(Archive {
                stream: export.stream,
                force_compress: false,
                platforms: platforms(export.platforms)?,
                all_platforms: export.all_platforms,
                skip_docker: export.skip_compatibility_manifest,
            }));
        }
        let name: String = any.type_url.chars().take(200).collect();
        Err(Error::unimplemented(format!("transfers know no {name:?}")))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Registry(_) => "a registry",
            Self::Store(_) => "the image store",
            Self::Import(_) => "an import stream",
            Self::Export(_) => "an export stream",
        }
    }
}

impl Store {
    fn new(store: ImageStore) -> Result<Self> {
        if store.extra_references.len() > MAX_LISTED || store.unpacks.len() > MAX_LISTED {
            return Err(Error::invalid(format!("an image store lists more than {MAX_LISTED} names or unpackings")));
        }
        let unpack = |unpack: types::transfer::UnpackConfiguration| {
            let driver = match unpack.snapshotter.as_str() {
                "" => DRIVER,
                other => driver_name(other),
            };
            (unpack.platform.map_or_else(Platform::host, platform), driver.to_owned())
        };
        Ok(Self {
            name: store.name,
            labels: store.labels.into_iter().collect(),
            platforms: platforms(store.platforms)?,
            references: store.extra_references,
            unpacks: store.unpacks.into_iter().map(unpack).collect(),
        })
    }

    /// The names that an image gets which has one of its own, each with its labels; one that ends in `@` is yet to get
    /// the image's digest.
    ///
    /// # Errors
    /// `InvalidArgument` without a name.
    pub(super) fn names(&self) -> Result<Vec<(String, Labels)>> {
        let mut names = Vec::new();
        if !self.name.is_empty() {
            names.push((self.name.clone(), self.labels.clone()));
        }
        for reference in &self.references {
            // A beginning without a digest is no name.
            if reference.is_prefix && !reference.add_digest {
                continue;
            }
            let name = if reference.add_digest { format!("{}@", reference.name) } else { reference.name.clone() };
            let mut labels = self.labels.clone();
            if !self.name.is_empty() {
                labels.insert(GOES_WITH.into(), self.name.clone());
            }
            names.push((name, labels));
        }
        if names.is_empty() { Err(Error::invalid("the image store says no name for the image")) } else { Ok(names) }
    }

    /// The names that images of an archive get.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let prefixes = self.references.iter().filter(|reference| reference.is_prefix);
        prefixes
            .map(|reference| Wanted {
                prefix: reference.name.clone(),
                allow_overwrite: reference.allow_overwrite,
                add_digest: reference.add_digest,
                skip_named_digest: reference.skip_named_digest,
            })
            .collect()
    }

    /// The names of images that are there.
    ///
    /// # Errors
    /// `Unimplemented` for beginnings of names.
    pub(super) fn lookup(&self) -> Result<Vec<String>> {
        if self.references.iter().any(|reference| reference.is_prefix) {
            return Err(Error::unimplemented("images are exported by their whole names"));
        }
        let names = [&self.name].into_iter().chain(self.references.iter().map(|reference| &reference.name));
        Ok(names.filter(|name| !name.is_empty()).cloned().collect())
    }
}

fn platforms(words: Vec<types::Platform>) -> Result<Vec<Platform>> {
    if words.len() > MAX_LISTED {
        return Err(Error::invalid(format!("more than {MAX_LISTED} platforms are named")));
    }
    Ok(words.into_iter().map(platform).collect())
}

fn platform(word: types::Platform) -> Platform {
    Platform { os: word.os, architecture: word.architecture, variant: word.variant }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streaming::any;

    #[test]
    fn places_are_known_by_their_types() {
        let registry = OciRegistry { reference: "a/b:c".into(), resolver: None };
        assert!(matches!(Place::read(&any(&registry)), Ok(Place::Registry(found)) if found.reference == "a/b:c"));
        let mut google = any(&ImageStore { name: "n".into(), ..ImageStore::default() });
        google.type_url = format!("type.googleapis.com/{}", google.type_url);
        assert!(matches!(Place::read(&google), Ok(Place::Store(store)) if store.name == "n"));
        let broken = Any { value: vec![0xff; 9], ..google };
        assert!(Place::read(&broken).is_err_and(|error| error.kind() == windlass_model::Kind::InvalidArgument));
        assert!(Place::read(&Any::default()).is_err());
    }

    #[test]
    fn an_image_gets_all_names_that_are_whole() {
        let reference = |name: &str, is_prefix, add_digest| ImageReference {
            name: name.into(),
            is_prefix,
            add_digest,
            ..ImageReference::default()
        };
        let references = vec![reference("a:2", false, false), reference("p", true, false), reference("q", true, true)];
        let store = ImageStore { name: "a:1".into(), extra_references: references, ..ImageStore::default() };
        let store = Store::new(store).expect("a store");
        let names: Vec<String> = store.names().expect("names").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a:1", "a:2", "q@"]);
        assert!(store.lookup().is_err());
        assert!(Store::new(ImageStore::default()).expect("a store").names().is_err());
    }
}
