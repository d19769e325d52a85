//! RemoveImage: every name of the image.

use std::sync::Arc;

use windlass_cri_api::v1;
use windlass_model::{Error, Result};

use crate::Server;

impl Server {
    /// Removes all names of an image; one that is not here is removed. What runs from it keeps its layers.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] for one that is mounted into a container, or only another tenant's.
    pub(crate) async fn remove_image(
        self: &Arc<Self>,
        request: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse> {
        let named = request.image.map(|spec| spec.image).unwrap_or_default();
        let server = self.clone();
        let remove = {
            let named = named.clone();
            async move { server.remove_names(&named).await }
        };
        self.verbs.join(format!("image/{named}"), "remove", remove).await?;
        Ok(v1::RemoveImageResponse {})
    }

    async fn remove_names(&self, named: &str) -> Result<()> {
        let Some(found) = self.find_image(named).await? else { return Ok(()) };
        // Its bytes would stay, but the container could not be made again.
        if let Some(container) = self.mounts_image(&found.detail.id.to_string()) {
            return Err(Error::precondition(format!("image {named:?} is mounted into container {container}")));
        }
        let groups = self.image_groups().await?;
        let mut own = groups.into_iter().filter(|group| group.detail.id == found.detail.id).peekable();
        if let Some(group) = own.peek()
            && group.records.is_empty()
            && let Some((lender, _)) = group.lent.first()
        {
            let lender = lender.namespace();
            return Err(Error::precondition(format!("image {named:?} is lent by namespace {lender}: remove it there")));
        }
        for record in own.flat_map(|group| group.records) {
            match self.tenant.images().delete(&record.name).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
