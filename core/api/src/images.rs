//! `containerd.services.images.v1.Images`: names that point at manifests.

use std::borrow::Cow;

use containerd_client::services::v1::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse, Image,
    ListImagesRequest, ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use containerd_client::types;
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::images::{ImageRecord, Images as Store};
use windlass_model::Descriptor;
use windlass_model::filter::label;

use crate::codes::status;
use crate::served::images_server::{Images, ImagesServer};
use crate::{mask, tenant, words};

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> ImagesServer<impl Images> {
    ImagesServer::new(Service { core })
}

impl Service {
    /// The images of the tenant that a request names; what it makes of them is held by its lease.
    fn held<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        Ok(tenant::of(&self.core, request)?.images().under(tenant::lease(request)?))
    }
}

#[tonic::async_trait]
impl Images for Service {
    async fn create(&self, request: Request<CreateImageRequest>) -> Result<Response<CreateImageResponse>, Status> {
        let images = self.held(&request)?;
        let record = record(words::required(request.into_inner().image, "an image")?)?;
        let made = images.create(record).await.map_err(status)?;
        Ok(Response::new(CreateImageResponse { image: Some(word(made)) }))
    }

    async fn update(&self, request: Request<UpdateImageRequest>) -> Result<Response<UpdateImageResponse>, Status> {
        let images = self.held(&request)?;
        let UpdateImageRequest { image, update_mask, .. } = request.into_inner();
        let (image, paths) = (words::required(image, "an image")?, mask::paths(update_mask));
        mask::check(&paths, "an image", &["target"], &["labels", "annotations"])?;
        let annotations = image.target.as_ref().map(|target| target.annotations.clone()).unwrap_or_default();
        let target = mask::sets(&paths, "target").then(|| target(image.target)).transpose()?;
        let change = move |record: &mut ImageRecord| {
            mask::merge_texts(&mut record.labels, image.labels, &paths, "labels");
            match target {
                Some(target) => record.target = target,
                None => mask::merge_texts(&mut record.target.annotations, annotations, &paths, "annotations"),
            }
            Ok(())
        };
        let changed = images.update(&image.name, change).await.map_err(status)?;
        Ok(Response::new(UpdateImageResponse { image: Some(word(changed)) }))
    }

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
        let images = self.held(&request)?;
        let asked = request.into_inner();
        let target = asked.target.map(|target| words::digest(&target.digest)).transpose()?;
        images.delete_if(&asked.name, target).await.map_err(status)?;
        if asked.sync {
            self.core.collect().await.map_err(status)?;
        }
        Ok(Response::new(()))
    }
}

/// The record that a client wrote.
fn record(image: Image) -> Result<ImageRecord, Status> {
    let mut record = ImageRecord::new(image.name, target(image.target)?);
    mask::merge_texts(&mut record.labels, image.labels, &[], "labels");
    Ok(record)
}

/// What an image is to point at, as a client wrote it.
fn target(word: Option<types::Descriptor>) -> Result<Descriptor, Status> {
    let target = words::described(words::required(word, "a target")?)?;
    if target.size == 0 {
        return Err(Status::invalid_argument("a target's size must be greater than zero"));
    }
    if target.media_type.is_empty() {
        return Err(Status::invalid_argument("a target needs a media type"));
    }
    Ok(target)
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
