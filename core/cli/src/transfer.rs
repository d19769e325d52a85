//! Moves of images that the daemon does (`containerd.services.transfer.v1`), and how far it is with them.

use std::io::Read;

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::transfer_client::TransferClient;
use containerd_client::services::v1::{TransferOptions, TransferRequest};
use containerd_client::to_any;
use containerd_client::types::Platform as Word;
use containerd_client::types::transfer::{
    AuthRequest, AuthResponse, AuthType, OciRegistry, Progress, RegistryResolver, UnpackConfiguration,
};
use prost_types::Any;
use tonic::transport::Channel;
use windlass_model::{Platform, Reference};

use crate::bars::Bars;
use crate::client::{Daemon, answered, api};
use crate::human;
use crate::output::Output;
use crate::streaming::{Stream, read};

/// How to speak with a registry.
#[derive(Debug, Args)]
pub(crate) struct Registry {
    /// The user to log in as
    #[arg(short, long, requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Speak HTTP without TLS
    #[arg(long)]
    plain_http: bool,
    /// A folder of hosts.toml files on the daemon's machine, instead of the configured one
    #[arg(long, value_name = "FOLDER")]
    hosts_dir: Option<String>,
}

/// Which of an image's platforms, and what is made of them.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// The platform, as OS/ARCHITECTURE[/VARIANT]; the machine's own where none is given
    #[arg(long, value_name = "PLATFORM", value_parser = platform, conflicts_with = "all_platforms")]
    platform: Vec<Platform>,
    /// All platforms
    #[arg(long)]
    all_platforms: bool,
}

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub username: String,
    pub password: String,
}

/// What a move needs beside its ends.
pub(crate) struct Mover<'a> {
    daemon: &'a Daemon,
    channel: Channel,
    bars: Option<Bars>,
    /// Where the daemon asks for credentials, and those.
    questions: Option<(Stream, Login)>,
}

impl Registry {
    /// The credentials that were given; reads the password.
    pub fn login(&self) -> Result<Option<Login>> {
        self.username.clone().map(|username| login(username, std::io::stdin())).transpose()
    }
}

impl Choice {
    /// The platforms as a transfer has them; none for all of them.
    pub fn words(&self) -> Vec<Word> {
        match (self.all_platforms, self.platform.as_slice()) {
            (true, _) => Vec::new(),
            (false, []) => vec![word(&Platform::host())],
            (false, some) => some.iter().map(word).collect(),
        }
    }

    /// True where nothing was chosen.
    pub fn is_default(&self) -> bool {
        !self.all_platforms && self.platform.is_empty()
    }

    /// True where all platforms are asked for.
    pub fn is_all(&self) -> bool {
        self.all_platforms
    }

    /// What is to be unpacked: for `driver`, the platform that was asked for, else the machine's own.
    pub fn unpacks(&self, driver: &str) -> Vec<UnpackConfiguration> {
        let host = Platform::host();
        let chosen: &[Platform] = if self.platform.is_empty() { std::slice::from_ref(&host) } else { &self.platform };
        let one = |platform| UnpackConfiguration { platform: Some(word(platform)), snapshotter: driver.to_owned() };
        chosen.iter().map(one).collect()
    }
}

impl<'a> Mover<'a> {
    /// Gets ready for `doing`.
    pub async fn new(daemon: &'a Daemon, output: &Output, doing: &str) -> Result<Self> {
        let channel = daemon.connect().await?;
        let bars = output.shows_progress().then(|| Bars::new(doing));
        Ok(Self { daemon, channel, bars, questions: None })
    }

    /// A stream for one end of the move.
    pub async fn stream(&self, purpose: &str) -> Result<Stream> {
        Stream::open(self.daemon, &self.channel, purpose).await
    }

    /// The end that is a registry.
    pub async fn registry(&mut self, reference: &Reference, how: Registry) -> Result<Any> {
        let login = how.login()?;
        let mut resolver = RegistryResolver {
            host_dir: how.hosts_dir.unwrap_or_default(),
            default_scheme: if how.plain_http { "http".into() } else { String::new() },
            ..Default::default()
        };
        if let Some(login) = login {
            let stream = self.stream("auth").await?;
            resolver.auth_stream = stream.id().to_owned();
            self.questions = Some((stream, login));
        }
        Ok(to_any(&OciRegistry { reference: reference.to_string(), resolver: Some(resolver) }))
    }

    /// Moves, and returns when the daemon is done.
    pub async fn run(self, source: Any, destination: Any) -> Result<()> {
        let Self { daemon, channel, mut bars, mut questions } = self;
        let mut progress = match &bars {
            Some(_) => Some(Stream::open(daemon, &channel, "progress").await?),
            None => None,
        };
        let progress_stream = progress.as_ref().map(|stream| stream.id().to_owned()).unwrap_or_default();
        let options = Some(TransferOptions { progress_stream });
        let request = TransferRequest { source: Some(source), destination: Some(destination), options };
        let mut client = api!(TransferClient<_>, channel);
        let call = client.transfer(daemon.request(request));
        tokio::pin!(call);
        loop {
            tokio::select! {
                answer = &mut call => return answer.map(drop).map_err(answered),
                told = next(&mut progress) => match (told, &mut bars) {
                    (Ok(Some(message)), Some(bars)) => show(bars, &message),
                    // Progress is a courtesy: where it ends, the move goes on without.
                    _ => progress = None,
                },
                asked = next_question(&mut questions) => match asked {
                    Ok(true) => {}
                    _ => questions = None,
                },
            }
        }
    }
}

async fn next(stream: &mut Option<Stream>) -> Result<Option<Any>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// Answers the daemon's next question for credentials; false where none will come any more.
async fn next_question(questions: &mut Option<(Stream, Login)>) -> Result<bool> {
    let Some((stream, login)) = questions else { return std::future::pending().await };
    let Some(message) = stream.next().await? else { return Ok(false) };
    read::<AuthRequest>(&message)?;
    let (username, secret) = (login.username.clone(), login.password.clone());
    let kind = AuthType::Credentials.into();
    stream.say(&AuthResponse { auth_type: kind, secret, username, expire_at: None }).await?;
    Ok(true)
}

fn show(bars: &mut Bars, message: &Any) {
    let Ok(told) = read::<Progress>(message) else { return };
    if told.name.is_empty() {
        return bars.say(&told.event);
    }
    let count = |count| u64::try_from(count).unwrap_or(0);
    let (done, total) = (count(told.progress), count(told.total));
    let digest = told.desc.as_ref().map(|desc| human::short(&desc.digest)).filter(|digest| !digest.is_empty());
    bars.show(&told.name, digest.unwrap_or(&told.name), done, total, &told.event);
    if is_over(&told.event) {
        bars.finish(&told.name);
    }
}

/// True for the words with which a daemon tells that something is done.
fn is_over(event: &str) -> bool {
    let words =
        ["already exists", "complete", "completed", "done", "exists", "extracted", "imported", "pushed", "saved"];
    words.contains(&event)
}

/// A user's name and the password, which is all that comes from `from` but the end of its line.
pub(crate) fn login(username: String, mut from: impl Read) -> Result<Login> {
    let mut password = String::new();
    from.read_to_string(&mut password).context("read the password")?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    Ok(Login { username, password })
}

fn word(platform: &Platform) -> Word {
    Word {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        ..Default::default()
    }
}

/// Reads `OS/ARCHITECTURE[/VARIANT]`.
fn platform(text: &str) -> Result<Platform, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [os, architecture] | [os, architecture, ""] if !os.is_empty() && !architecture.is_empty() => {
            Ok(Platform { os: os.into(), architecture: architecture.into(), variant: String::new() })
        }
        [os, architecture, variant] if !os.is_empty() && !architecture.is_empty() => {
            Ok(Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() })
        }
        _ => Err("a platform is OS/ARCHITECTURE[/VARIANT]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_loses_its_line_end_only() {
        let login = login("user".into(), &b" secret \r\n"[..]).expect("read");
        assert_eq!((login.username.as_str(), login.password.as_str()), ("user", " secret "));
    }

    #[test]
    fn platforms_are_read() {
        let parsed = platform("linux/arm64/v8").expect("good");
        assert_eq!(
            (parsed.os.as_str(), parsed.architecture.as_str(), parsed.variant.as_str()),
            ("linux", "arm64", "v8")
        );
        assert_eq!(platform("linux/amd64").expect("good").variant, "");
        for text in ["", "linux", "/amd64", "linux/", "a/b/c/d"] {
            assert!(platform(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_machines_own_platform_is_the_choice_of_who_makes_none() {
        let host = Choice { platform: Vec::new(), all_platforms: false };
        assert_eq!(host.words(), [word(&Platform::host())]);
        assert_eq!(host.unpacks("overlay").len(), 1);
        let all = Choice { platform: Vec::new(), all_platforms: true };
        assert!(all.words().is_empty() && all.is_all());
    }
}
