//! The files of an artifact: fetched side by side, and laid into one snapshot when all are there.

use std::collections::HashSet;
use std::sync::Arc;

use windlass_model::Result;

use super::Pull;
use super::layers::Layer;
use super::record::Known;
use crate::images::artifact;
use crate::images::image::ImageDetail;
use crate::images::unpack::{LayerFiles, Unpacking};

impl Pull {
    /// Brings all blobs of an artifact here; the last of them carries the snapshot, where it is to be unpacked.
    pub(super) async fn artifact(&self, detail: &ImageDetail, known: &Known) -> Result<Vec<Layer>> {
        let (namespace, pulls) = (self.tenant.namespace(), &self.tenant.core.0.pulls);
        let mut seen = HashSet::new();
        let mut layers: Vec<Layer> = detail
            .layers
            .iter()
            // Two files may have the same bytes.
            .filter(|descriptor| seen.insert(descriptor.digest))
            .map(|descriptor| Layer {
                descriptor: descriptor.clone(),
                // A file is what it is: nothing was packed.
                diff_id: descriptor.digest,
                chain_id: None,
                blob: pulls.blobs.cell((namespace.clone(), descriptor.digest)),
                files: None,
            })
            .collect();
        let unpacking = match &self.request.unpack {
            Some(driver) => Some(Unpacking::new(&self.tenant, driver)?),
            None => None,
        };
        if let (Some(last), Some(unpacking), Some(name)) = (layers.last_mut(), &unpacking, detail.chain_id) {
            last.chain_id = Some(name);
            last.files = (known.snapshots == 0)
                .then(|| pulls.layers.cell((namespace.clone(), unpacking.driver_name().to_owned(), name.to_string())));
        }
        let layers: Vec<Arc<Layer>> = layers.into_iter().map(Arc::new).collect();
        self.side_by_side(&layers, None).await?;
        let cell = layers.last().and_then(|last| last.files.as_ref());
        if let (Some(cell), Some(unpacking)) = (cell, &unpacking) {
            cell.get_or_try_init(|| self.lay_out(detail, unpacking)).await?;
        }
        // The tasks are done, so nobody else has these.
        Ok(layers.into_iter().filter_map(Arc::into_inner).collect())
    }

    async fn lay_out(&self, detail: &ImageDetail, unpacking: &Unpacking) -> Result<LayerFiles> {
        let files = artifact::files(&detail.layers)?;
        let snapshot = unpacking.prepare(&[]).await?;
        let (folder, blobs) = (snapshot.target().path.clone(), self.tenant.core.0.blobs.clone());
        crate::blocking(move || artifact::fill(&folder, &files, |digest| blobs.path(digest))).await?;
        unpacking.commit(snapshot, &[]).await
    }
}
