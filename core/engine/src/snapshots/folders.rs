//! Whose the folders of snapshots are: what a client that names a folder may have.
//!
//! Whoever could name any folder would be root on this machine. So a client gets the folders of snapshots of its own namespace,
//! and what is in them. What is in them is nobody's word: it may be a link that leads anywhere.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use windlass_model::snapshotter::{Kind as SnapshotKind, Snapshotter};
use windlass_model::{Error, Kind, Result};

use crate::Tenant;
use crate::meta::Reader;
use crate::meta::schema::SNAPSHOTS;

/// The folders of one namespace's snapshots.
#[derive(Debug, Default)]
pub(crate) struct Folders {
    /// A driver's folder, and the snapshots in it that are this namespace's.
    drivers: Vec<(PathBuf, HashMap<u64, SnapshotKind>)>,
}

/// A path in the folder of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InSnapshot {
    /// The snapshot's folder, as its driver made it.
    pub(crate) folder: PathBuf,
    /// The way from there.
    pub(crate) rest: PathBuf,
    /// What the snapshot is.
    pub(crate) kind: SnapshotKind,
}

impl Folders {
    pub(crate) fn of(tenant: &Tenant) -> Result<Self> {
        let view = tenant.core.0.db.view();
        let known = |driver: &dyn Snapshotter| {
            let prefix = (tenant.namespace().clone(), driver.name().to_owned());
            let records = view.scan(&SNAPSHOTS, &prefix)?;
            let kinds = records.into_iter().map(|(_, record)| (record.id, record.kind)).collect();
            Ok((driver.root().to_owned(), kinds))
        };
        let drivers = tenant.core.0.drivers.values().map(|driver| known(driver.as_ref())).collect::<Result<_>>()?;
        Ok(Self { drivers })
    }

    /// Where in the folder of a snapshot `path` is.
    pub(crate) fn find(&self, path: &Path) -> Option<InSnapshot> {
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        self.drivers.iter().filter(|_| plain).find_map(|(root, known)| {
            let mut parts = path.strip_prefix(root).ok()?.components();
            let Component::Normal(number) = parts.next()? else { return None };
            let kind = *known.get(&number.to_str()?.parse().ok()?)?;
            Some(InSnapshot { folder: root.join(number), rest: parts.as_path().to_owned(), kind })
        })
    }

    /// What the snapshot is whose folder `path` is, or a folder that its driver made in there. Folders further down are
    /// refused, as a name on the way may be a link.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] for every other path.
    pub(crate) fn kind(&self, path: &Path) -> Result<SnapshotKind> {
        let found = self.find(path).filter(|found| found.rest.components().count() <= 1);
        let refuse = || {
            let message = format!("{} is not the folder of a snapshot of this namespace", path.display());
            Error::new(Kind::PermissionDenied, message)
        };
        found.map(|found| found.kind).ok_or_else(refuse)
    }
}
