//! ListImages and ImageStatus, and how an image is found by any of its names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::json;
use windlass_cri_api::v1;
use windlass_engine::Tenant;
use windlass_engine::images::{ImageDetail, ImageRecord, Naming, PullRequest};
use windlass_model::{Digest, Error, Reference, Result};

use super::Pins;
use crate::Server;

/// How many digits of an id are enough to ask for, where no other id begins with them.
const SHORTEST_PREFIX: usize = 4;

/// An image that was looked for.
pub(crate) struct Found {
    /// The record that was found first.
    pub(crate) record: ImageRecord,
    /// What it is.
    pub(crate) detail: Arc<ImageDetail>,
    /// It was named by its id.
    pub(crate) by_id: bool,
    /// The other tenant whose image it is; `None`: it is the CRI's own.
    pub(crate) lender: Option<Tenant>,
}

/// One image with everything that names it.
pub(super) struct Group {
    pub(super) detail: Arc<ImageDetail>,
    pub(super) records: Vec<ImageRecord>,
    /// Other tenants that have it, too, and what they call it.
    pub(super) lent: Vec<(Tenant, ImageRecord)>,
}

impl Server {
    /// All images, or the one that the filter names.
    pub(crate) async fn list_images(
        self: &Arc<Self>,
        request: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse> {
        let named = request.filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        let mut groups = self.image_groups().await?;
        if !named.is_empty() {
            let found = self.find_image(&named).await?;
            groups.retain(|group| found.as_ref().is_some_and(|found| found.detail.id == group.detail.id));
        }
        let pins = self.live().pins;
        Ok(v1::ListImagesResponse { images: groups.iter().map(|group| image(group, &pins)).collect() })
    }

    /// One image; an empty answer where it is not here.
    pub(crate) async fn image_status(
        self: &Arc<Self>,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse> {
        let named = request.image.map(|spec| spec.image).unwrap_or_default();
        let Some(found) = self.find_image(&named).await? else { return Ok(v1::ImageStatusResponse::default()) };
        let groups = self.image_groups().await?;
        let group = groups.iter().find(|group| group.detail.id == found.detail.id);
        let info = if request.verbose { info(&found.detail) } else { HashMap::new() };
        Ok(v1::ImageStatusResponse { image: group.map(|group| image(group, &self.live().pins)), info })
    }

    /// The image that `text` names: an id, whole or the beginning of it, or a reference.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for an empty name and for a beginning that two ids share.
    pub(crate) async fn find_image(&self, text: &str) -> Result<Option<Found>> {
        if text.is_empty() {
            return Err(Error::invalid("image.image is empty"));
        }
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        let is_digits = bare.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let mut names = Vec::new();
        if is_digits && bare.len() == 64 {
            names.push((format!("sha256:{bare}"), true));
        }
        if let Ok(reference) = text.parse::<Reference>() {
            // Beside a digest a tag says nothing, and no record has it.
            let reference = reference.digest().map(|digest| reference.with_digest(digest)).unwrap_or(reference);
            names.push((reference.to_string(), false));
        }
        for owner in self.image_owners() {
            let images = owner.images();
            for (name, by_id) in &names {
                match images.get(name).await {
                    Ok(record) => {
                        let detail = images.describe(&record).await?;
                        let lender = (owner.namespace() != self.tenant.namespace()).then(|| owner.clone());
                        return Ok(Some(Found { record, detail, by_id: *by_id, lender }));
                    }
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if !is_digits || bare.len() < SHORTEST_PREFIX {
            return Ok(None);
        }
        let groups = self.image_groups().await?;
        let mut matches = groups.into_iter().filter(|group| group.detail.id.hex().starts_with(bare));
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => Err(Error::invalid(format!("image id {text:?} is ambiguous"))),
            (Some(mut one), None) => {
                let own = one.records.pop().map(|record| (None, record));
                let lent = || one.lent.pop().map(|(lender, record)| (Some(lender), record));
                let found = own.or_else(lent);
                Ok(found.map(|(lender, record)| Found { record, detail: one.detail, by_id: true, lender }))
            }
            _ => Ok(None),
        }
    }

    /// The tenant itself, and those whose images it may use.
    fn image_owners(&self) -> impl Iterator<Item = Tenant> + use<> {
        let core = self.tenant.core().clone();
        let lenders = self.config.share_images.clone().into_iter().map(move |name| core.tenant(name));
        std::iter::once(self.tenant.clone()).chain(lenders)
    }

    /// The image that was found, as the CRI's own: one of another tenant is taken over, without a byte fetched, so that
    /// what runs from it does not depend on what the other does.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] where the other's name for it is none that the CRI could have.
    pub(crate) async fn own_image(&self, found: Found) -> Result<Found> {
        let Some(lender) = found.lender else { return Ok(found) };
        let reference: Reference = found.record.name.parse()?;
        let request = PullRequest {
            unpack: Some(self.config.snapshotter.clone()),
            naming: Naming::Cri,
            ..PullRequest::new(reference)
        };
        let (images, target) = (self.tenant.images(), found.record.target.clone());
        let taking = async move { images.take_over(&lender, &target, request).await.map(drop) };
        self.verbs.join(format!("share/{}", found.detail.id), "take over", taking).await?;
        let record = self.tenant.images().get(&found.detail.id.to_string()).await?;
        Ok(Found { record, lender: None, ..found })
    }

    /// All images by their ids. A record whose content is not whole is left out: it cannot be run.
    pub(super) async fn image_groups(&self) -> Result<Vec<Group>> {
        let mut described = Vec::new();
        for owner in self.image_owners() {
            let images = owner.images();
            for record in images.list().await? {
                match images.describe(&record).await {
                    Ok(detail) => described.push((owner.clone(), record, detail)),
                    Err(error) => tracing::debug!(image = record.name, %error, "cannot be described"),
                }
            }
        }
        let own = self.tenant.namespace();
        Ok(group(described.into_iter().map(|(owner, record, detail)| {
            let lender = (owner.namespace() != own).then_some(owner);
            (lender, record, detail)
        })))
    }
}

fn group(described: impl IntoIterator<Item = (Option<Tenant>, ImageRecord, Arc<ImageDetail>)>) -> Vec<Group> {
    let mut groups: BTreeMap<Digest, Group> = BTreeMap::new();
    for (lender, record, detail) in described {
        let empty = || Group { detail: detail.clone(), records: Vec::new(), lent: Vec::new() };
        let group = groups.entry(detail.id).or_insert_with(empty);
        match lender {
            None => group.records.push(record),
            Some(lender) => group.lent.push((lender, record)),
        }
    }
    groups.into_values().collect()
}

/// An image in the CRI's words.
fn image(group: &Group, pins: &Pins) -> v1::Image {
    let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
    let lent = group.lent.iter().map(|(_, record)| record);
    let names: BTreeMap<&str, &ImageRecord> =
        group.records.iter().chain(lent).map(|record| (record.name.as_str(), record)).collect();
    for record in names.into_values() {
        // The record under the image's id is no name that a registry knows.
        if record.name.starts_with("sha256:") {
            continue;
        }
        match record.name.parse::<Reference>() {
            Ok(reference) if reference.digest().is_some() => repo_digests.push(record.name.clone()),
            Ok(_) => repo_tags.push(record.name.clone()),
            Err(_) => {}
        }
    }
    let config = group.detail.config.config().as_ref();
    let (uid, username) = user(config.and_then(|config| config.user().as_deref()).unwrap_or_default());
    let id = group.detail.id.to_string();
    v1::Image {
        spec: Some(v1::ImageSpec {
            image: id.clone(),
            image_ref: id.clone(),
            annotations: group.detail.annotations.clone().into_iter().collect(),
            ..Default::default()
        }),
        id,
        repo_tags,
        repo_digests,
        size: group.detail.size,
        uid,
        username,
        // What is only another's cannot be removed here.
        pinned: group.records.is_empty() || group.records.iter().any(|record| pins.hold(record)),
    }
}

/// The user of an image: a number or a name, without its group.
fn user(text: &str) -> (Option<v1::Int64Value>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(value) => (Some(v1::Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn info(detail: &ImageDetail) -> HashMap<String, String> {
    let chain = detail.chain_id.map(|chain| chain.to_string()).unwrap_or_default();
    let info = json!({
        "chainID": chain,
        "imageSpec": detail.config,
        "manifest": detail.manifest,
        "layers": detail.layers,
        "artifactType": detail.artifact_type,
    });
    HashMap::from([("info".into(), info.to_string())])
}

#[cfg(test)]
mod tests {
    use oci_spec::image::ImageConfiguration;
    use windlass_model::Descriptor;

    use super::*;

    fn record(name: &str) -> ImageRecord {
        ImageRecord::new(name, descriptor())
    }

    fn descriptor() -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(b"manifest"),
            size: 1,
            platform: None,
            annotations: BTreeMap::new(),
            urls: vec![],
        }
    }

    fn detail(id: &[u8]) -> Arc<ImageDetail> {
        Arc::new(ImageDetail {
            id: Digest::of(id),
            manifest: descriptor(),
            config: ImageConfiguration::default(),
            layers: vec![],
            diff_ids: vec![],
            chain_id: None,
            size: 77,
            artifact_type: None,
            annotations: BTreeMap::new(),
        })
    }

    #[test]
    fn an_image_has_all_its_names() {
        let (one, two) = (detail(b"one"), detail(b"two"));
        let id = one.id.to_string();
        let digest = format!("docker.io/library/a@{}", Digest::of(b"manifest"));
        let groups = group(vec![
            (None, record("docker.io/library/a:1"), one.clone()),
            (None, record("docker.io/library/b:2"), two),
            (None, record("quay.io/a/a:2"), one.clone()),
            (None, record(&digest), one.clone()),
            (None, record(&id), one),
        ]);
        assert_eq!(groups.len(), 2);
        let pins = Pins::parse(&["quay.io/*".to_owned()]).unwrap();
        let first = groups.iter().map(|group| image(group, &pins)).find(|image| image.id == id).unwrap();
        assert_eq!(first.repo_tags, ["docker.io/library/a:1", "quay.io/a/a:2"]);
        assert_eq!(first.repo_digests, [digest]);
        assert_eq!((first.size, first.pinned), (77, true));
    }

    #[test]
    fn a_user_is_a_number_or_a_name() {
        assert_eq!(user("1000:10"), (Some(v1::Int64Value { value: 1000 }), String::new()));
        assert_eq!(user("ada:users"), (None, "ada".into()));
        assert_eq!(user(""), (None, String::new()));
    }
}
