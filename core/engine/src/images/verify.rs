//! Who may be pulled and unpacked: the executables of a folder are asked, and all of them must agree.
//!
//! The protocol is containerd's `bindir` image verifier. Each executable is called, in the order of their names, with
//! `-name NAME -digest DIGEST -stdin-media-type application/vnd.oci.descriptor.v1+json` and gets the descriptor as JSON on
//! its standard input. Exit code 0 allows, any other refuses; what it prints is the reason (32 KiB of it are kept). What
//! it prints on its standard error goes to the log. An executable that cannot be started or does not end in time
//! refuses, too; so does a folder that is not there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use windlass_model::{Context, Descriptor, Digest, Error, Kind, Result};

/// How much of what a verifier prints is kept, in bytes.
const MAX_OUTPUT: u64 = 32 << 10;
/// How long an agreement counts: the layers of an image are applied one after the other.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many agreements are remembered.
const MAX_REMEMBERED: usize = 1024;
/// What is written to a verifier.
const MEDIA_TYPE: &str = "application/vnd.oci.descriptor.v1+json";

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierConfig {
    /// The folder with the executables.
    pub bin_dir: PathBuf,
    /// How many of them are asked, the first by name; `None` for all.
    pub max_verifiers: Option<usize>,
    /// How long each may take.
    pub per_verifier_timeout: Duration,
}

/// The verifiers of one core.
#[derive(Debug, Default)]
pub(crate) struct Verifiers {
    config: Option<VerifierConfig>,
    agreed: Mutex<HashMap<(String, Digest), Instant>>,
}

impl Verifiers {
    pub(crate) fn new(config: Option<VerifierConfig>) -> Self {
        Self { config, agreed: Mutex::default() }
    }

    /// True where anybody is asked at all.
    pub(crate) fn are_asked(&self) -> bool {
        self.config.is_some()
    }

    /// Asks whether the image `name`, which is `target`, may be used.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] where one refuses or gives no answer.
    pub(crate) async fn judge(&self, name: &str, target: &Descriptor) -> Result<()> {
        let Some(config) = &self.config else { return Ok(()) };
        let found = config.executables().await?;
        let most = config.max_verifiers.unwrap_or(usize::MAX);
        if found.len() > most {
            let dir = config.bin_dir.display();
            tracing::warn!("{} of the {} image verifiers in {dir} are not asked", found.len() - most, found.len());
        }
        let mut descriptor = serde_json::to_vec(target)
            .map_err(|error| Error::with_source(Kind::Internal, "a descriptor cannot be written", error))?;
        descriptor.push(b'\n');
        for path in found.iter().take(most) {
            let (status, reason) = config.ask(path, name, target, &descriptor).await.map_err(|error| {
                let message = format!("image verifier {} gave no answer on {name}", path.display());
                Error::with_source(Kind::PermissionDenied, message, error)
            })?;
            if !status.success() {
                let (verifier, digest) = (path.display(), target.digest);
                tracing::warn!(%verifier, name, %digest, %status, reason, "an image was refused");
                let message = format!("image verifier {verifier} refuses {name} ({digest}), {status}: {reason}");
                return Err(Error::new(Kind::PermissionDenied, message));
            }
            tracing::debug!(verifier = %path.display(), name, digest = %target.digest, reason, "an image was allowed");
        }
        let mut agreed = self.agreed.lock();
        if agreed.len() >= MAX_REMEMBERED {
            agreed.clear();
        }
        agreed.insert((name.to_owned(), target.digest), Instant::now());
        Ok(())
    }

    /// As [`Verifiers::judge`], but an agreement of the last minute counts.
    pub(crate) async fn judge_again(&self, name: &str, target: &Descriptor) -> Result<()> {
        let key = (name.to_owned(), target.digest);
        if self.agreed.lock().get(&key).is_some_and(|since| since.elapsed() < REMEMBERED) {
            return Ok(());
        }
        self.judge(name, target).await
    }
}

impl VerifierConfig {
    /// The verifiers in the order in which they are asked.
    async fn executables(&self) -> Result<Vec<PathBuf>> {
        let folder = self.bin_dir.clone();
        let list = move || {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&folder).context(|| format!("list verifiers in {}", folder.display()))? {
                found.push(entry?.path());
            }
            found.sort();
            Ok(found)
        };
        crate::blocking(list).await.map_err(|error| {
            Error::with_source(Kind::PermissionDenied, "images are to be verified, and nobody can be asked", error)
        })
    }

    async fn ask(&self, path: &Path, name: &str, target: &Descriptor, input: &[u8]) -> Result<(ExitStatus, String)> {
        let digest = target.digest.to_string();
        let child = Command::new(path)
            .args(["-name", name, "-digest", &digest, "-stdin-media-type", MEDIA_TYPE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context(|| format!("start {}", path.display()))?;
        let leader = child.id();
        let asked = tokio::time::timeout(self.per_verifier_timeout, talk(child, input, path)).await;
        if let (Err(_), Some(leader)) = (&asked, leader) {
            // What it started ends with it.
            windlass_sys::process::kill_group(leader);
        }
        asked.map_err(|_| Error::deadline(format!("it took longer than {:?}", self.per_verifier_timeout)))?
    }
}

async fn talk(mut child: Child, input: &[u8], path: &Path) -> Result<(ExitStatus, String)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let writing = async {
        if let Some(mut stdin) = stdin {
            // One that does not want to read need not.
            let _ = stdin.write_all(input).await;
        }
    };
    let ((), reason, told) = tokio::join!(writing, read(stdout), read(stderr));
    for line in told.lines() {
        tracing::debug!(verifier = %path.display(), line, "an image verifier says");
    }
    Ok((child.wait().await?, reason))
}

/// The start of what a verifier prints; the rest is read and dropped, so that it is not stopped by a full pipe.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut bytes = Vec::new();
    let _ = (&mut stream).take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    let more = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if more > 0 { text + " (cut)" } else { text }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn verifiers(folder: &Path, scripts: &[(&str, &str)], most: Option<usize>) -> Verifiers {
        for (name, script) in scripts {
            let path = folder.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let per_verifier_timeout = Duration::from_secs(2);
        Verifiers::new(Some(VerifierConfig { bin_dir: folder.to_owned(), max_verifiers: most, per_verifier_timeout }))
    }

    fn target() -> Descriptor {
        serde_json::from_value(serde_json::json!({"mediaType": "m", "digest": Digest::of(b"x"), "size": 7})).unwrap()
    }

    #[tokio::test]
    async fn all_must_agree_and_get_what_the_protocol_says() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let seen = folder.path().join("seen");
        let note = format!("echo \"$@\" > {0}; cat >> {0}", seen.display());
        let asked = verifiers(&bin, &[("10-note", &note)], None);
        asked.judge("a/b:c", &target()).await.unwrap();
        let text = std::fs::read_to_string(&seen).unwrap();
        let (digest, told) = (Digest::of(b"x"), text.lines().collect::<Vec<_>>());
        assert_eq!(told[0], format!("-name a/b:c -digest {digest} -stdin-media-type {MEDIA_TYPE}"));
        assert_eq!(serde_json::from_str::<Descriptor>(told[1]).unwrap(), target());
        let asked = verifiers(&bin, &[("20-no", "echo not signed; exit 3")], None);
        let error = asked.judge("a/b:c", &target()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied);
        assert!(error.to_string().contains("not signed"), "{error}");
        // The second one is one too many.
        verifiers(&bin, &[], Some(1)).judge("a/b:c", &target()).await.unwrap();
    }

    #[tokio::test]
    async fn who_gives_no_answer_refuses() {
        for script in ["sleep 60", "kill -9 $$", "yes; sleep 60"] {
            let folder = tempfile::tempdir().unwrap();
            let error = verifiers(folder.path(), &[("v", script)], None).judge("n", &target()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::PermissionDenied, "{script}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("v"), "").unwrap();
        let error = verifiers(folder.path(), &[], None).judge("n", &target()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied, "not executable");
        let gone = verifiers(&folder.path().join("gone"), &[], None);
        assert_eq!(gone.judge("n", &target()).await.unwrap_err().kind(), Kind::PermissionDenied);
        Verifiers::new(None).judge("n", &target()).await.unwrap();
    }

    #[tokio::test]
    async fn an_agreement_counts_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let asked = verifiers(folder.path(), &[("v", "exit 0")], None);
        asked.judge("n", &target()).await.unwrap();
        std::fs::write(folder.path().join("v"), "#!/bin/sh\nexit 1\n").unwrap();
        asked.judge_again("n", &target()).await.unwrap();
        assert!(asked.judge_again("other", &target()).await.is_err());
        assert!(asked.judge("n", &target()).await.is_err());
    }
}
