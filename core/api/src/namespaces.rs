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

use crate::codes::status;
use crate::served::namespaces_server::{Namespaces, NamespacesServer};
use crate::words;

/// How a field mask names all labels, and the start of one label's name.
const LABELS: &str = "labels";

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> NamespacesServer<impl Namespaces> {
    NamespacesServer::new(Service { core })
}

#[tonic::async_trait]
impl Namespaces for Service {
    async fn get(&self, request: Request<GetNamespaceRequest>) -> Result<Response<GetNamespaceResponse>, Status> {
        let name = name(&request.get_ref().name)?;
        let record = self.core.namespaces().get(&name).await.map_err(status)?;
        Ok(Response::new(GetNamespaceResponse { namespace: Some(word(name, record.labels)) }))
    }

    async fn list(&self, request: Request<ListNamespacesRequest>) -> Result<Response<ListNamespacesResponse>, Status> {
        let filter = words::filter(&[request.into_inner().filter])?;
        let mut found = self.core.namespaces().list().await.map_err(status)?;
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
        let asked = required(request.into_inner().namespace)?;
        let name = name(&asked.name)?;
        let made = self.core.namespaces().create(&name, asked.labels.into_iter().collect()).await.map_err(status)?;
        Ok(Response::new(CreateNamespaceResponse { namespace: Some(word(name, made.labels)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateNamespaceRequest>,
    ) -> Result<Response<UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let asked = required(request.namespace)?;
        let name = name(&asked.name)?;
        let mask = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        check_mask(&mask)?;
        let wanted: Labels = asked.labels.into_iter().collect();
        let change = move |labels: &mut Labels| merge(labels, wanted, &mask);
        let changed = self.core.namespaces().update(&name, change).await.map_err(status)?;
        Ok(Response::new(UpdateNamespaceResponse { namespace: Some(word(name, changed.labels)) }))
    }

    async fn delete(&self, request: Request<DeleteNamespaceRequest>) -> Result<Response<()>, Status> {
        let name = name(&request.get_ref().name)?;
        self.core.namespaces().delete(&name).await.map_err(status)?;
        Ok(Response::new(()))
    }
}

fn name(text: &str) -> Result<Namespace, Status> {
    text.parse().map_err(status)
}

fn required(namespace: Option<Word>) -> Result<Word, Status> {
    namespace.ok_or_else(|| Status::invalid_argument("a namespace is required"))
}

fn word(name: Namespace, labels: Labels) -> Word {
    Word { name: name.into(), labels: labels.into_iter().collect() }
}

fn check_mask(mask: &[String]) -> Result<(), Status> {
    let label = |path: &str| path.strip_prefix(LABELS).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    match mask.iter().find(|path| !label(path)) {
        Some(path) => Err(Status::invalid_argument(format!("a namespace has no field {path:?} to update"))),
        None => Ok(()),
    }
}

/// Changes what `mask` names to what is wanted; an empty value takes a label away. Without a mask, all labels are set.
fn merge(labels: &mut Labels, mut wanted: Labels, mask: &[String]) {
    if mask.is_empty() || mask.iter().any(|path| path == LABELS) {
        *labels = wanted;
    } else {
        for path in mask {
            let Some(key) = path.strip_prefix(LABELS).and_then(|rest| rest.strip_prefix('.')) else { continue };
            labels.insert(key.to_owned(), wanted.remove(key).unwrap_or_default());
        }
    }
    labels.retain(|_, value| !value.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_mask_changes_only_what_it_names() {
        let mut now = labels(&[("a", "1"), ("b", "1"), ("c.d", "1")]);
        let mask = ["labels.a".to_owned(), "labels.c.d".to_owned()];
        check_mask(&mask).expect("labels");
        merge(&mut now, labels(&[("a", "2"), ("b", "2")]), &mask);
        assert_eq!(now, labels(&[("a", "2"), ("b", "1")]));
        merge(&mut now, labels(&[("z", "1")]), &[]);
        assert_eq!(now, labels(&[("z", "1")]));
        assert!(check_mask(&["name".to_owned()]).is_err());
        assert!(check_mask(&["labelsx".to_owned()]).is_err());
    }
}
