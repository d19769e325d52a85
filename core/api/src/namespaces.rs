//! `containerd.services.namespaces.v1.Namespaces`: the tenants themselves.

use containerd_client::services::v1::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, GetNamespaceRequest, GetNamespaceResponse,
    ListNamespacesRequest, ListNamespacesResponse, Namespace as Word, UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_model::Namespace;
use windlass_model::filter::label;
use windlass_model::snapshotter::Labels;

use crate::access::Access;
use crate::codes::status;
use crate::served::namespaces_server::{Namespaces, NamespacesServer};
use crate::{mask, words};

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> NamespacesServer<impl Namespaces> {
    NamespacesServer::new(Service { core })
}

#[tonic::async_trait]
impl Namespaces for Service {
    async fn get(&self, request: Request<GetNamespaceRequest>) -> Result<Response<GetNamespaceResponse>, Status> {
        let name = visible(&request, &request.get_ref().name)?;
        // One that nobody has made yet has no labels, and Docker asks for them before it makes it.
        let labels = match self.core.namespaces().get(&name).await {
            Err(error) if error.is_not_found() => Labels::new(),
            found => found.map_err(status)?.labels,
        };
        Ok(Response::new(GetNamespaceResponse { namespace: Some(word(name, labels)) }))
    }

    async fn list(&self, request: Request<ListNamespacesRequest>) -> Result<Response<ListNamespacesResponse>, Status> {
        let access = Access::of(&request);
        let filter = words::filter(&[request.into_inner().filter])?;
        let mut found = self.core.namespaces().list().await.map_err(status)?;
        found.retain(|name, _| access.sees(name));
        found.retain(|name, record| {
            filter.matches(|path| match path.first()?.as_str() {
                "name" => words::field(name.as_str()),
                "labels" => label(&record.labels, &path[1..]),
                _ => None,
            })
        });
        let namespaces = found.into_iter().map(|(name, record)| word(name, record.labels)).collect();
        Ok(Response::new(ListNamespacesResponse { namespaces }))
    }

    async fn create(
        &self,
        request: Request<CreateNamespaceRequest>,
    ) -> Result<Response<CreateNamespaceResponse>, Status> {
        let access = Access::of(&request);
        let asked = words::required(request.into_inner().namespace, "a namespace")?;
        let name = name(&asked.name)?;
        access.change(&name)?;
        let made = self.core.namespaces().create(&name, asked.labels.into_iter().collect()).await.map_err(status)?;
        Ok(Response::new(CreateNamespaceResponse { namespace: Some(word(name, made.labels)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateNamespaceRequest>,
    ) -> Result<Response<UpdateNamespaceResponse>, Status> {
        let asked = words::required(request.get_ref().namespace.clone(), "a namespace")?;
        let name = changeable(&request, &asked.name)?;
        let request = request.into_inner();
        let paths = mask::paths(request.update_mask);
        mask::check(&paths, "a namespace", &[], &["labels"])?;
        let change = move |labels: &mut Labels| mask::merge_texts(labels, asked.labels, &paths, "labels");
        let changed = self.core.namespaces().update(&name, change).await.map_err(status)?;
        Ok(Response::new(UpdateNamespaceResponse { namespace: Some(word(name, changed.labels)) }))
    }

    async fn delete(&self, request: Request<DeleteNamespaceRequest>) -> Result<Response<()>, Status> {
        let name = changeable(&request, &request.get_ref().name)?;
        self.core.namespaces().delete(&name).await.map_err(status)?;
        Ok(Response::new(()))
    }
}

fn name(text: &str) -> Result<Namespace, Status> {
    text.parse().map_err(status)
}

/// A namespace that the request's socket shows; another might as well not exist.
fn visible<T>(request: &Request<T>, text: &str) -> Result<Namespace, Status> {
    let name = name(text)?;
    if Access::of(request).sees(&name) {
        return Ok(name);
    }
    Err(Status::not_found(format!("namespace {name} does not exist")))
}

/// A namespace that the request's socket shows and lets be changed.
fn changeable<T>(request: &Request<T>, text: &str) -> Result<Namespace, Status> {
    let name = visible(request, text)?;
    Access::of(request).change(&name)?;
    Ok(name)
}

fn word(name: Namespace, labels: Labels) -> Word {
    Word { name: name.into(), labels: labels.into_iter().collect() }
}
