//! `containerd.services.images.v1.Images`: names that point at manifests.

use std::borrow::Cow;

use containerd_client::services::v1::{
    DeleteImageRequest, GetImageRequest, GetImageResponse, Image, ListImagesRequest, ListImagesResponse,
};
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::images::ImageRecord;
use windlass_model::filter::label;

use crate::codes::status;
use crate::served::images_server::{Images, ImagesServer};
use crate::tenant;
use crate::words;

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> ImagesServer<impl Images> {
    ImagesServer::new(Service { core })
}

#[tonic::async_trait]
impl Images for Service {
    async fn get(&self, request: Request<GetImageRequest>) -> Result<Response<GetImageResponse>, Status> {
        let images = tenant::of(&self.core, &request)?.images();
        let found = images.get(&request.get_ref().name).await.map_err(status)?;
        Ok(Response::new(GetImageResponse { image: Some(word(found)) }))
    }

    async fn list(&self, request: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut found = tenant::of(&self.core, &request)?.images().list().await.map_err(status)?;
        found.retain(|record| filter.matches(|path| field(record, path)));
        Ok(Response::new(ListImagesResponse { images: found.into_iter().map(word).collect() }))
    }

    async fn delete(&self, request: Request<DeleteImageRequest>) -> Result<Response<()>, Status> {
        let tenant = tenant::of(&self.core, &request)?;
        let asked = request.into_inner();
        if let Some(target) = asked.target {
            let found = tenant.images().get(&asked.name).await.map_err(status)?;
            if found.target.digest.to_string() != target.digest {
                let message = format!("image {:?} points at {}", asked.name, found.target.digest);
                return Err(Status::failed_precondition(message));
            }
        }
        tenant.images().delete(&asked.name).await.map_err(status)?;
        if asked.sync {
            self.core.collect().await.map_err(status)?;
        }
        Ok(Response::new(()))
    }
}

/// What a filter sees of an image.
fn field<'a>(record: &'a ImageRecord, path: &[String]) -> Option<Cow<'a, str>> {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["name", ..] => words::field(&record.name),
        ["target", "digest", ..] => words::field(record.target.digest.to_string()),
        ["target", "mediatype", ..] => words::field(&record.target.media_type),
        ["labels", ..] => label(&record.labels, &path[1..]),
        ["annotations", ..] => label(&record.target.annotations, &path[1..]),
        _ => None,
    }
}

fn word(record: ImageRecord) -> Image {
    Image {
        name: record.name,
        labels: record.labels.into_iter().collect(),
        target: Some(words::descriptor(record.target)),
        created_at: words::moment(record.created_at),
        updated_at: words::moment(record.updated_at),
    }
}
