//! Images of the kubelet's namespace, through the CRI: what the kubelet is to know of has to come this way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{ListStatusesRequest, Status as Ingest};
use k8s_cri::v1::{AuthConfig, ImageSpec, ImageStatusRequest, ListImagesRequest, PullImageRequest, RemoveImageRequest};
use serde::Serialize;

use super::Pulled;
use crate::bars::Bars;
use crate::client::{Daemon, answered, api};
use crate::human;
use crate::output::{Output, Row};
use crate::transfer::Login;

/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(150);

/// An image as the CRI tells of it.
#[derive(Debug, Serialize)]
struct Image {
    id: String,
    tags: Vec<String>,
    digests: Vec<String>,
    size: u64,
    pinned: bool,
}

impl Row for Image {
    const HEADS: &'static [&'static str] = &["IMAGE", "TAG", "IMAGE ID", "SIZE"];

    fn cells(&self) -> Vec<String> {
        let (name, tag) = match (self.tags.first(), self.digests.first()) {
            (Some(name), _) => split_tag(name),
            (None, Some(name)) => (name.split('@').next().unwrap_or(name), "<none>"),
            (None, None) => ("<none>", "<none>"),
        };
        vec![name.into(), tag.into(), human::short(&self.id).into(), human::size(self.size)]
    }
}

pub(super) async fn list(daemon: &Daemon, output: &Output) -> Result<()> {
    let answer = daemon.images().await?.list_images(ListImagesRequest { filter: None }).await.map_err(answered)?;
    // A row for each tag, so that every name can be found.
    let mut rows: Vec<Image> = Vec::new();
    for image in answer.into_inner().images {
        let row = |tags| Image {
            id: image.id.clone(),
            tags,
            digests: image.repo_digests.clone(),
            size: image.size,
            pinned: image.pinned,
        };
        if output.is_json() || image.repo_tags.is_empty() {
            rows.push(row(image.repo_tags.clone()));
        } else {
            rows.extend(image.repo_tags.iter().map(|tag| row(vec![tag.clone()])));
        }
    }
    rows.sort_by(|one, other| (&one.tags, &one.id).cmp(&(&other.tags, &other.id)));
    output.rows(&rows)
}

pub(super) async fn remove(daemon: &Daemon, images: &[String]) -> Result<()> {
    let mut client = daemon.images().await?;
    for name in images {
        let spec = Some(ImageSpec { image: name.clone(), ..Default::default() });
        // To the CRI, removing nothing is success; to a person it is a misspelt name.
        let status = client.image_status(ImageStatusRequest { image: spec.clone(), verbose: false }).await;
        if status.map_err(answered).with_context(|| format!("look for {name}"))?.into_inner().image.is_none() {
            bail!("there is no image {name:?}");
        }
        let removed = client.remove_image(RemoveImageRequest { image: spec }).await;
        removed.map_err(answered).with_context(|| format!("remove {name}"))?;
    }
    Ok(())
}

/// The CRI's PullImage, with the daemon's ingests shown while it runs.
pub(super) async fn pull(name: String, login: Option<Login>, daemon: &Daemon, output: &Output) -> Result<()> {
    let auth =
        login.map(|login| AuthConfig { username: login.username, password: login.password, ..Default::default() });
    let image = ImageSpec { image: name.clone(), user_specified_image: name.clone(), ..Default::default() };
    let mut client = daemon.images().await?;
    let begun = Instant::now();
    let request = PullImageRequest { image: Some(image.clone()), auth, sandbox_config: None };
    let answer = tokio::select! {
        answer = client.pull_image(request) => answer,
        never = watch(daemon, output.shows_progress().then(|| Bars::new(&format!("pulling {name}")))) => match never {},
    };
    let id = answer.map_err(answered).with_context(|| format!("pull {name}"))?.into_inner().image_ref;
    let status = client.image_status(ImageStatusRequest { image: Some(image), verbose: false }).await;
    let size = status.ok().and_then(|status| status.into_inner().image).map_or(0, |image| image.size);
    Pulled { image: name, id, size, seconds: begun.elapsed().as_secs_f64() }.tell(output)
}

/// Shows the daemon's ingests for ever. Progress is a courtesy: where it cannot be had, the pull goes on without.
async fn watch(daemon: &Daemon, bars: Option<Bars>) -> std::convert::Infallible {
    if let Some(mut bars) = bars
        && let Ok(channel) = daemon.connect().await
    {
        let mut client = api!(ContentClient<_>, channel);
        loop {
            match client.list_statuses(daemon.request(ListStatusesRequest::default())).await {
                Ok(answer) => show(&mut bars, &answer.into_inner().statuses),
                Err(_) => break,
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    std::future::pending().await
}

/// Moves each ingest's bar; one that is gone is done.
fn show(bars: &mut Bars, ingests: &[Ingest]) {
    let count = |count| u64::try_from(count).unwrap_or(0);
    for ingest in ingests {
        bars.show(&ingest.r#ref, label(ingest), count(ingest.offset), count(ingest.total), "");
    }
    bars.finish_others(|key| ingests.iter().any(|ingest| ingest.r#ref == key));
}

/// What an ingest is called: its digest where it is known, else the end of its reference.
fn label(ingest: &Ingest) -> &str {
    match ingest.expected.as_str() {
        "" => human::short(ingest.r#ref.rsplit(['/', ':']).next().unwrap_or_default()),
        digest => human::short(digest),
    }
}

/// A name without its tag, and the tag; a colon before the last slash belongs to a port.
fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (name, "<none>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(split_tag("localhost:5000/app:1"), ("localhost:5000/app", "1"));
        assert_eq!(split_tag("localhost:5000/app"), ("localhost:5000/app", "<none>"));
    }

    #[test]
    fn ingests_are_called_by_their_digest() {
        let mut ingest = Ingest { r#ref: "layer-sha256:ab".into(), ..Default::default() };
        assert_eq!(label(&ingest), "ab");
        ingest.expected = "sha256:0123456789abcdef".into();
        assert_eq!(label(&ingest), "0123456789abc");
    }
}
