//! Images and artifacts as volumes: each a read-only view of what the image holds, mounted on the host for as long as its
//! container is there.
//!
//! The container's record names its views before they are made, so nothing of a container that was not made stays. A view
//! stands on the image's snapshot and thereby holds it: removing the image takes nothing away from who has it mounted.
//! Nobody can write to a view, so a path that was resolved inside it stays what it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use windlass_cri_api::v1;
use windlass_model::snapshotter::Labels;
use windlass_model::{Context as _, Error, Kind, Mount, Result};
use windlass_sys::fs::{open_beneath, open_folder};
use windlass_sys::mount::{is_mounted, mount_all, unmount};

use super::create::ignore_missing;
use super::record::Container;
use super::spec::mounts::ids;
use super::{blocking, labels};
use crate::{Server, selinux};

/// How the kubelet knows that an image volume, and nothing else, is why a container cannot be made.
const FAILED: &str = "ImageVolumeMountFailed";

/// An image that is mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageVolume {
    /// The place of the mount in the request's list.
    pub(crate) mount: usize,
    /// The image's id.
    pub(crate) image_id: String,
    /// The name of the snapshot that holds the image; `None` for an image without layers.
    pub(crate) snapshot: Option<String>,
}

/// A view to be mounted.
struct Shown {
    volume: ImageVolume,
    labels: Option<selinux::Labels>,
    place: PathBuf,
    mounts: Vec<Mount>,
    sub_path: String,
}

impl ImageVolume {
    /// The key of its view.
    fn key(&self, container: &Container) -> String {
        format!("{}-volume-{}", container.id, self.mount)
    }
}

/// The labels of a container's record that hold its views.
pub(super) fn labels(container: &Container) -> BTreeMap<String, String> {
    let label = |volume: &ImageVolume| {
        let name = format!("containerd.io/gc.ref.snapshot.{}/volume.{}", container.snapshotter, volume.mount);
        (name, volume.key(container))
    };
    container.image_volumes.iter().map(label).collect()
}

/// The mounts of the request as their status has them: with the id of each image.
pub(super) fn mounts(container: &Container) -> Vec<v1::Mount> {
    let mut mounts = container.config.mounts.clone();
    for volume in &container.image_volumes {
        if let Some(image) = mounts.get_mut(volume.mount).and_then(|mount| mount.image.as_mut()) {
            image.image_ref.clone_from(&volume.image_id);
        }
    }
    mounts
}

/// The container as its specification has it: what it mounts of images is there under a path of the host.
pub(super) fn with_sources(container: &Container, sources: Vec<(usize, PathBuf)>) -> Container {
    let mut container = container.clone();
    for (at, source) in sources {
        if let Some(mount) = container.config.mounts.get_mut(at) {
            mount.host_path = source.to_string_lossy().into_owned();
            mount.image = None;
            mount.uid_mappings.clear();
            mount.gid_mappings.clear();
            mount.image_sub_path.clear();
        }
    }
    container
}

impl Server {
    /// The images that the mounts of a request name.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for an image that is not here: the kubelet pulls it first.
    pub(super) async fn find_image_volumes(&self, config: &v1::ContainerConfig) -> Result<Vec<ImageVolume>> {
        let mut volumes = Vec::new();
        for (at, mount) in config.mounts.iter().enumerate() {
            let Some(image) = mount.image.as_ref().filter(|image| !image.image.is_empty()) else { continue };
            let found = self.find_image(&image.image).await?.ok_or_else(|| {
                Error::not_found(format!("{FAILED}: mounts[{at}].image: image {:?} is not here", image.image))
            })?;
            let found = self.own_image(found).await?;
            volumes.push(ImageVolume {
                mount: at,
                image_id: found.detail.id.to_string(),
                snapshot: found.detail.chain_id.map(|name| name.to_string()),
            });
        }
        Ok(volumes)
    }

    /// Makes and mounts the views of a container as far as they are not there, and finds what of each is asked for; answers
    /// the sources by the mounts' places in the request.
    ///
    /// # Errors
    /// [`Kind::NotFound`] and [`Kind::InvalidArgument`] for a sub-path that is not in the image.
    pub(super) async fn attach_image_volumes(&self, container: &Container) -> Result<Vec<(usize, PathBuf)>> {
        let snapshots = self.tenant.snapshots(&container.snapshotter)?;
        let users = self.pods.find(container.pod.as_str()).ok().and_then(|pod| pod.users());
        let mut shown = Vec::new();
        for volume in &container.image_volumes {
            let key = volume.key(container);
            let mounts = match snapshots.view(&key, volume.snapshot.as_deref(), Labels::new(), None).await {
                Err(error) if error.kind() == Kind::AlreadyExists => snapshots.mounts(&key).await,
                made => made,
            };
            let asked = container.config.mounts.get(volume.mount);
            let mut mounts = mounts.context(|| format!("{FAILED}: mounts[{}].image", volume.mount))?;
            let map = asked.map_or(Ok(None), |asked| ids(asked, &format!("mounts[{}]", volume.mount)))?;
            // Without a word about it, what the image says is root's is root's in the pod's user namespace, too.
            if let Some(map) = map.or_else(|| users.clone()) {
                // The view's own layers are shown under these ids, which no mount over them could do.
                mounts.iter_mut().for_each(|mount| mount.options.extend(map.options()));
            }
            shown.push(Shown {
                labels: container.selinux.clone().filter(|_| asked.is_some_and(|mount| mount.selinux_relabel)),
                volume: volume.clone(),
                place: self.image_volumes_folder(container).join(volume.mount.to_string()),
                mounts,
                sub_path: asked.map(|mount| mount.image_sub_path.clone()).unwrap_or_default(),
            });
        }
        let attach = move || shown.iter().map(|one| Ok((one.volume.mount, one.attach()?))).collect();
        blocking(attach).await
    }

    /// Takes the views of a container away; nothing there is success.
    pub(super) async fn detach_image_volumes(&self, container: &Container) -> Result<()> {
        if container.image_volumes.is_empty() {
            return Ok(());
        }
        let folder = self.image_volumes_folder(container);
        let places: Vec<_> = container.image_volumes.iter().map(|one| folder.join(one.mount.to_string())).collect();
        blocking(move || {
            places.iter().try_for_each(|place| unmount(place))?;
            // A mount that came meanwhile makes this fail, and nothing of the image is touched.
            windlass_sys::fs::remove_tree(&folder)
        })
        .await?;
        let snapshots = self.tenant.snapshots(&container.snapshotter)?;
        for volume in &container.image_volumes {
            ignore_missing(snapshots.remove(&volume.key(container)).await)?;
        }
        Ok(())
    }

    /// The container that has an image mounted, if there is one.
    pub(crate) fn mounts_image(&self, image_id: &str) -> Option<windlass_model::Id> {
        let all = self.containers.all();
        let user = all.iter().find(|one| one.image_volumes.iter().any(|volume| volume.image_id == image_id));
        user.map(|container| container.id.clone())
    }

    fn image_volumes_folder(&self, container: &Container) -> PathBuf {
        self.config.state.join("cri").join("volumes").join(&container.id)
    }
}

impl Shown {
    /// Mounts the view where it is not mounted, and answers the path of what is asked for. Blocks.
    fn attach(&self) -> Result<PathBuf> {
        let at = self.volume.mount;
        let doing = || format!("{FAILED}: mounts[{at}].image");
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.place).context(doing)?;
        if !is_mounted(&self.place)? {
            let mut mounts = self.mounts.clone();
            labels::show_view(&mut mounts, self.labels.as_ref()).context(doing)?;
            mount_all(&mounts, &self.place).context(doing)?;
        }
        if self.sub_path.is_empty() {
            return Ok(self.place.clone());
        }
        resolve(&self.place, &self.sub_path).map_err(|error| {
            let message = format!("{FAILED}: mounts[{at}].image_sub_path {:?}: {error}", self.sub_path);
            Error::new(error.kind(), message)
        })
    }
}

/// The path of the file or folder `sub_path` below `root`, with all links resolved and none that leads outside.
fn resolve(root: &Path, sub_path: &str) -> Result<PathBuf> {
    let folder = open_folder(root)?;
    let found: OwnedFd = match open_beneath(&folder, Path::new(sub_path), OFlags::PATH, Mode::empty()) {
        Err(error) if error.kind() == Kind::PermissionDenied => {
            return Err(Error::invalid("it leads out of the image"));
        }
        Err(error) if error.is_not_found() => return Err(Error::not_found("it is not in the image")),
        found => found?,
    };
    let stat = rustix::fs::fstat(&found).map_err(std::io::Error::from)?;
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::RegularFile) {
        return Err(Error::invalid("it is neither a file nor a folder"));
    }
    let path = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    if !path.starts_with(root) {
        return Err(Error::internal(format!("it was found at {}, outside of its root", path.display())));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::record::{Rung, tests::container};
    use super::*;

    #[test]
    fn a_sub_path_stays_in_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let root = folder.join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), "x").unwrap();
        fs::write(folder.join("secret"), "x").unwrap();
        symlink("a", root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink("/a", root.join("absolute")).unwrap();
        assert_eq!(resolve(&root, "a/b").unwrap(), root.join("a/b"));
        assert_eq!(resolve(&root, "inside/file").unwrap(), root.join("a/file"));
        assert_eq!(resolve(&root, "a/../a").unwrap(), root.join("a"));
        for path in ["..", "../secret", "outside", "absolute", "/a", "a/../../secret"] {
            assert_eq!(resolve(&root, path).unwrap_err().kind(), Kind::InvalidArgument, "{path}");
        }
        assert!(resolve(&root, "nothing").unwrap_err().is_not_found());
    }

    #[test]
    fn a_record_holds_its_views_and_its_status_tells_the_image() {
        let mut one = container(Rung::Reserved);
        let image = Some(v1::ImageSpec { image: "a".into(), ..Default::default() });
        one.config.mounts = vec![v1::Mount::default(), v1::Mount { image, ..Default::default() }];
        one.image_volumes = vec![ImageVolume { mount: 1, image_id: "sha256:11".into(), snapshot: None }];
        let held = labels(&one);
        assert_eq!(held.get("containerd.io/gc.ref.snapshot.overlay/volume.1").unwrap(), "c1-volume-1");
        assert_eq!(mounts(&one)[1].image.as_ref().unwrap().image_ref, "sha256:11");
    }
}
