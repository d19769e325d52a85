//! `windlass images pull`: the CRI's PullImage, with the daemon's ingests shown while it runs.

use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{ListStatusesRequest, Status as Ingest};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use k8s_cri::v1::{AuthConfig, ImageSpec, ImageStatusRequest, PullImageRequest};
use serde::Serialize;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::output::Output;

/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(150);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to pull, as Kubernetes writes it: [HOST/]NAME[:TAG][@DIGEST]
    image: String,
    /// The user to log in as
    #[arg(short, long, requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

/// What was pulled.
#[derive(Debug, Serialize)]
struct Pulled {
    image: String,
    id: String,
    size: u64,
    seconds: f64,
}

/// The bars of the ingests seen so far.
struct Bars {
    all: MultiProgress,
    known: HashMap<String, ProgressBar>,
    head: ProgressBar,
}

pub(super) async fn run(arguments: Arguments, daemon: &Daemon, output: &Output) -> Result<()> {
    daemon.require_kubernetes()?;
    let auth = arguments.username.map(|username| login(username, std::io::stdin())).transpose()?;
    let image = ImageSpec {
        image: arguments.image.clone(),
        user_specified_image: arguments.image.clone(),
        ..Default::default()
    };
    let mut client = daemon.images().await?;
    let begun = Instant::now();
    let request = PullImageRequest { image: Some(image.clone()), auth, sandbox_config: None };
    let bars = output.shows_progress().then(|| Bars::new(&arguments.image));
    let answer = tokio::select! {
        answer = client.pull_image(request) => answer,
        never = watch(daemon, bars.as_ref()) => match never {},
    };
    if let Some(bars) = &bars {
        bars.clear();
    }
    let id = answer.map_err(answered).with_context(|| format!("pull {}", arguments.image))?.into_inner().image_ref;
    let status = client.image_status(ImageStatusRequest { image: Some(image), verbose: false }).await;
    let size = status.ok().and_then(|status| status.into_inner().image).map_or(0, |image| image.size);
    let pulled = Pulled { image: arguments.image, id, size, seconds: begun.elapsed().as_secs_f64() };
    let text = format!(
        "pulled {} ({}, {}) in {:.1} s",
        pulled.image,
        human::short(&pulled.id),
        human::size(pulled.size),
        pulled.seconds
    );
    output.one(&pulled, &text)
}

fn login(username: String, mut from: impl Read) -> Result<AuthConfig> {
    let mut password = String::new();
    from.read_to_string(&mut password).context("read the password")?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    Ok(AuthConfig { username, password, ..Default::default() })
}

/// Shows the daemon's ingests for ever. Progress is a courtesy: where it cannot be had, the pull goes on without.
async fn watch(daemon: &Daemon, bars: Option<&Bars>) -> std::convert::Infallible {
    if let Some(bars) = bars
        && let Ok(channel) = daemon.connect().await
    {
        let mut client = api!(ContentClient<_>, channel);
        let mut bars = Bars { all: bars.all.clone(), known: HashMap::new(), head: bars.head.clone() };
        loop {
            match client.list_statuses(daemon.request(ListStatusesRequest::default())).await {
                Ok(answer) => bars.show(&answer.into_inner().statuses),
                Err(_) => break,
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    std::future::pending().await
}

impl Bars {
    fn new(image: &str) -> Self {
        let all = MultiProgress::new();
        let head = all.add(ProgressBar::new_spinner().with_style(style("{spinner} {msg} {elapsed}")));
        head.set_message(format!("pulling {image}"));
        head.enable_steady_tick(LOOK);
        Self { all, known: HashMap::new(), head }
    }

    /// Moves each ingest's bar; one that is gone is done.
    fn show(&mut self, ingests: &[Ingest]) {
        for ingest in ingests {
            let (offset, total) = (at_least_zero(ingest.offset), at_least_zero(ingest.total));
            let bar = self.known.entry(ingest.r#ref.clone()).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::no_length());
                bar.set_prefix(label(ingest));
                bar
            });
            if total > 0 && bar.length() != Some(total) {
                bar.set_length(total);
                bar.set_style(style("  {prefix:13} [{bar:30}] {bytes:>10}/{total_bytes:10} {bytes_per_sec}"));
            } else if total == 0 {
                bar.set_style(style("  {prefix:13} {bytes:>10} {bytes_per_sec}"));
            }
            bar.set_position(offset);
        }
        for (name, bar) in &self.known {
            if !bar.is_finished() && !ingests.iter().any(|ingest| ingest.r#ref == *name) {
                bar.set_position(bar.length().unwrap_or_else(|| bar.position()));
                bar.finish();
            }
        }
    }

    fn clear(&self) {
        self.head.finish_and_clear();
        // Fails only where the terminal is gone.
        let _ = self.all.clear();
    }
}

fn at_least_zero(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// What an ingest is called: its digest where it is known, else the end of its reference.
fn label(ingest: &Ingest) -> String {
    if !ingest.expected.is_empty() {
        return human::short(&ingest.expected).to_owned();
    }
    let name = ingest.r#ref.rsplit(['/', ':']).next().unwrap_or_default();
    name.chars().filter(|character| !character.is_control()).take(13).collect()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_loses_its_line_end_only() {
        let auth = login("user".into(), &b" secret \r\n"[..]).expect("read");
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("user", " secret "));
    }

    #[test]
    fn bars_follow_ingests_to_their_end() {
        let mut bars = Bars::new("image");
        bars.all.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        let ingest = |offset, total| Ingest { r#ref: "layer-sha256:ab".into(), offset, total, ..Default::default() };
        bars.show(&[ingest(5, 0)]);
        bars.show(&[ingest(50, 100)]);
        let bar = bars.known["layer-sha256:ab"].clone();
        assert_eq!((bar.position(), bar.length(), bar.is_finished()), (50, Some(100), false));
        assert_eq!(bar.prefix(), "ab");
        bars.show(&[]);
        assert_eq!((bar.position(), bar.is_finished()), (100, true));
        bars.clear();
    }
}
