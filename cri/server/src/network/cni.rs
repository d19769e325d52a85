//! Runs the plugins of a network (CNI specification 1.1.0, sections 2, 4 and 5).
//!
//! A plugin is an executable that is told by its environment what to do (`CNI_COMMAND`, `CNI_CONTAINERID`, `CNI_NETNS`,
//! `CNI_IFNAME`, `CNI_ARGS`, `CNI_PATH`) and by its standard input with which configuration. It prints one JSON
//! document: a result, or with a non-zero exit code an error. ADD runs the plugins in order, each of which gets its
//! predecessor's result; DEL runs them in reverse, each with the result of the whole ADD.
//!
//! A plugin is not trusted to end, to be brief or to make sense: it leads a process group of its own, which is killed
//! when the time is over, and its output is bounded.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use windlass_model::{Error, Kind, Result};

use super::conf::{NetworkList, Plugin};

/// The longest document that a plugin may print, in bytes.
const LONGEST_OUTPUT: usize = 1024 * 1024;

/// How much of a plugin's standard error is kept for a message, in bytes.
const LONGEST_COMPLAINT: usize = 4096;

/// What systemd tells the daemon alone.
const DAEMONS_OWN: [&str; 5] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC"];

/// "Try again later" among the error codes of the specification.
const TRY_AGAIN: u64 = 11;

/// Where plugins are and how long they may take.
#[derive(Clone, Debug)]
pub struct Plugins {
    /// Folders that are searched for a plugin, in this order.
    pub folders: Vec<PathBuf>,
    /// The time for all plugins of a network together to do an ADD. Everything else has half of it.
    pub timeout: Duration,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Is the attachment still as it was made?
    Check,
    /// Could a pod be attached now? (1.1.0)
    Status,
    /// Forget all attachments but those named. (1.1.0)
    Gc,
}

/// One attachment of one container (for us: a pod) to a network.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The network.
    pub list: &'a NetworkList,
    /// The pod's id.
    pub id: &'a str,
    /// The pinned namespace; `None` for a DEL after it is gone.
    pub netns: Option<&'a Path>,
    /// The interface inside.
    pub interface: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a str,
    /// Values for the capabilities that plugins ask for (`runtimeConfig`).
    pub capabilities: &'a Map<String, Value>,
    /// The attachments that a GC is to leave.
    pub valid: Option<&'a [Value]>,
}

impl<'a> Call<'a> {
    /// A call that is about no attachment.
    fn of_network(list: &'a NetworkList, capabilities: &'a Map<String, Value>) -> Self {
        Self { list, id: "", netns: None, interface: "", args: "", capabilities, valid: None }
    }
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

impl Plugins {
    /// Attaches: all plugins in order. The answer is the last one's result.
    ///
    /// # Errors
    /// The first failure, naming network and plugin. What was done until then is undone by [`Plugins::del`].
    pub async fn add(&self, call: &Call<'_>) -> Result<Value> {
        let mut result = None;
        let deadline = Instant::now() + self.timeout;
        for plugin in &call.list.plugins {
            let answer = self.run(Verb::Add, call, plugin, result.as_ref(), left(deadline)).await?;
            let answer = answer.ok_or_else(|| failure(Verb::Add, call, plugin, Kind::Internal, "printed no result"))?;
            result = Some(answer);
        }
        result.ok_or_else(|| Error::internal(format!("network {:?} has no plugins", call.list.name)))
    }

    /// Detaches: all plugins in reverse, also after one of them failed, so that a retry has less to do.
    ///
    /// `result` is what ADD answered, `None` where it never ended.
    ///
    /// # Errors
    /// The first failure, naming network and plugin.
    pub async fn del(&self, call: &Call<'_>, result: Option<&Value>) -> Result<()> {
        let result = result.filter(|_| call.list.has_check());
        let mut outcome = Ok(());
        let deadline = Instant::now() + self.timeout / 2;
        for (before, plugin) in call.list.plugins.iter().enumerate().rev() {
            // A plugin that hangs leaves those that are still to come their part of the time.
            let patience = left(deadline).div_f64((before + 1) as f64);
            if let Err(error) = self.run(Verb::Del, call, plugin, result, patience).await {
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    /// Asks all plugins in order whether the attachment is as they made it; does nothing where the network's version or
    /// its operator knows no CHECK.
    ///
    /// # Errors
    /// The first plugin's complaint.
    pub async fn check(&self, call: &Call<'_>, result: &Value) -> Result<()> {
        if !call.list.has_check() || call.list.disable_check {
            return Ok(());
        }
        let deadline = Instant::now() + self.timeout / 2;
        for plugin in &call.list.plugins {
            self.run(Verb::Check, call, plugin, Some(result), left(deadline)).await?;
        }
        Ok(())
    }

    /// Asks all plugins in order whether they could attach a pod now; does nothing where the network's version knows no
    /// STATUS.
    ///
    /// # Errors
    /// The first plugin's complaint.
    pub async fn status(&self, list: &NetworkList) -> Result<()> {
        if !list.has_status() {
            return Ok(());
        }
        let capabilities = Map::new();
        let call = Call::of_network(list, &capabilities);
        let deadline = Instant::now() + self.timeout / 2;
        for plugin in &list.plugins {
            self.run(Verb::Status, &call, plugin, None, left(deadline)).await?;
        }
        Ok(())
    }

    /// Has all plugins forget every attachment to the network but those of `valid` (id, interface), also after one of
    /// them failed; does nothing where the network's version or its operator knows no GC.
    ///
    /// # Errors
    /// The first failure, naming network and plugin.
    pub async fn gc(&self, list: &NetworkList, valid: &[(String, String)]) -> Result<()> {
        if !list.has_status() || list.disable_gc {
            return Ok(());
        }
        let named = |(id, interface): &(String, String)| json!({"containerID": id, "ifname": interface});
        let valid: Vec<Value> = valid.iter().map(named).collect();
        let capabilities = Map::new();
        let call = Call { valid: Some(&valid), ..Call::of_network(list, &capabilities) };
        let deadline = Instant::now() + self.timeout / 2;
        let mut outcome = Ok(());
        for (before, plugin) in list.plugins.iter().enumerate().rev() {
            if let Err(error) =
                self.run(Verb::Gc, &call, plugin, None, left(deadline).div_f64((before + 1) as f64)).await
            {
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    /// Refuses a network whose plugins are not installed.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`], naming the first missing plugin.
    pub fn installed(&self, list: &NetworkList) -> Result<()> {
        list.plugins.iter().try_for_each(|plugin| self.find(list, plugin).map(drop))
    }

    fn find(&self, list: &NetworkList, plugin: &Plugin) -> Result<PathBuf> {
        let found = self.folders.iter().map(|folder| folder.join(plugin.kind())).find(|path| path.is_file());
        found.ok_or_else(|| {
            let folders: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
            let (name, kind, folders) = (&list.name, plugin.kind(), folders.join(", "));
            Error::precondition(format!("network {name:?}: plugin {kind:?} is not in {folders}"))
        })
    }

    /// One plugin's call; `None` where it printed nothing.
    async fn run(
        &self,
        verb: Verb,
        call: &Call<'_>,
        plugin: &Plugin,
        previous: Option<&Value>,
        patience: Duration,
    ) -> Result<Option<Value>> {
        let fail = |kind: Kind, why: &str| failure(verb, call, plugin, kind, why);
        let path = self.find(call.list, plugin)?;
        let child = self.spawn(verb, call, &path).map_err(|error| fail(Kind::Internal, &error.to_string()))?;
        let talk = converse(child, request(call, plugin, previous));
        let (status, output, complaint) = match tokio::time::timeout(patience, talk).await {
            Err(_) => {
                let why = format!("was killed: the network's time for it, {:.1} s, is over", patience.as_secs_f32());
                return Err(fail(Kind::DeadlineExceeded, &why));
            }
            Ok(Err(error)) => return Err(fail(Kind::Internal, &error.to_string())),
            Ok(Ok(said)) => said,
        };
        if !status.success() {
            let (kind, why) = complaint_of(status, &output, &complaint);
            return Err(fail(kind, &why));
        }
        if verb != Verb::Add || output.iter().all(u8::is_ascii_whitespace) {
            return Ok(None); // The others answer nothing, and what some plugins print all the same means nothing
        }
        match serde_json::from_slice::<Map<String, Value>>(&output) {
            Ok(result) => Ok(Some(Value::Object(result))),
            Err(error) => Err(fail(Kind::Internal, &format!("printed no JSON object ({error}): {}", start(&output)))),
        }
    }

    fn spawn(&self, verb: Verb, call: &Call<'_>, path: &Path) -> std::io::Result<Child> {
        let folders = std::env::join_paths(&self.folders).map_err(std::io::Error::other)?;
        let mut command = Command::new(path);
        // The rest is handed on: plugins find their tools by PATH, and some an API server by other variables.
        DAEMONS_OWN.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.env("CNI_COMMAND", verb.word());
        if !matches!(verb, Verb::Status | Verb::Gc) {
            command.env("CNI_CONTAINERID", call.id).env("CNI_IFNAME", call.interface);
            command.env("CNI_NETNS", call.netns.unwrap_or(Path::new(""))).env("CNI_ARGS", call.args);
        }
        command.env("CNI_PATH", folders).current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// A plugin's process group: killed unless the plugin ended by itself, so that nothing of it outlives the call.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The leader is reaped: its number may soon be another's.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Writes the request and reads until the plugin has ended and nobody holds its output open. When it fails or is
/// dropped, the plugin's process group is killed.
async fn converse(mut child: Child, request: Vec<u8>) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    // Declared after the child and so dropped before it: while the child is not reaped, its number is its own.
    let group = Group::of(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A plugin that does not read its input to the end shows by its answer whether it needed it.
            let _ = stdin.write_all(&request).await;
        }
        Ok(())
    };
    let complain = async { Ok(tail(stderr).await) };
    let ((), output, complaint) = tokio::try_join!(write, whole(stdout), complain)?;
    let status = child.wait().await?;
    group.ended();
    Ok((status, output, complaint))
}

/// All that is printed, or an error where it is too much.
async fn whole(source: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut output = Vec::new();
    if let Some(source) = source {
        source.take(LONGEST_OUTPUT as u64 + 1).read_to_end(&mut output).await?;
    }
    if output.len() > LONGEST_OUTPUT {
        return Err(std::io::Error::other(format!("printed more than {LONGEST_OUTPUT} bytes")));
    }
    Ok(output)
}

/// The end of what is printed, however much it is.
async fn tail(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut piece = vec![0; LONGEST_COMPLAINT];
    let Some(mut source) = source else { return kept };
    while let Ok(read @ 1..) = source.read(&mut piece).await {
        kept.extend(piece.iter().take(read));
        let surplus = kept.len().saturating_sub(LONGEST_COMPLAINT);
        kept.drain(..surplus);
    }
    kept
}

/// What a plugin reads: its configuration, completed for this call.
fn request(call: &Call<'_>, plugin: &Plugin, previous: Option<&Value>) -> Vec<u8> {
    let mut conf = plugin.conf().clone();
    conf.insert("name".into(), call.list.name.clone().into());
    conf.insert("cniVersion".into(), call.list.version.clone().into());
    let wanted = call.capabilities.iter().filter(|(name, _)| plugin.wants(name));
    let wanted: Map<String, Value> = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
    if !wanted.is_empty() {
        conf.insert("runtimeConfig".into(), wanted.into());
    }
    if let Some(previous) = previous {
        conf.insert("prevResult".into(), previous.clone());
    }
    if let Some(valid) = call.valid {
        conf.insert("cni.dev/valid-attachments".into(), valid.into());
    }
    Value::Object(conf).to_string().into_bytes()
}

/// What a failed plugin says: its error document, or what it printed instead.
fn complaint_of(status: ExitStatus, output: &[u8], complaint: &[u8]) -> (Kind, String) {
    let document: Option<Map<String, Value>> = serde_json::from_slice(output).ok();
    let text = |field: &str| document.as_ref()?.get(field)?.as_str().filter(|text| !text.is_empty()).map(start_of);
    let code = document.as_ref().and_then(|document| document.get("code")).and_then(Value::as_u64);
    let kind = if code == Some(TRY_AGAIN) { Kind::Unavailable } else { Kind::Internal };
    let said = match (text("msg"), text("details")) {
        (Some(message), Some(details)) => format!("{message}: {details}"),
        (Some(message), None) | (None, Some(message)) => message,
        (None, None) => {
            let printed = if complaint.is_empty() { output } else { complaint };
            return (kind, format!("ended with {status} and no error document: {}", start(printed)));
        }
    };
    (kind, code.map_or_else(|| said.clone(), |code| format!("{said} (code {code})")))
}

fn failure(verb: Verb, call: &Call<'_>, plugin: &Plugin, kind: Kind, why: &str) -> Error {
    let (name, plugin, verb) = (&call.list.name, plugin.kind(), verb.word());
    Error::new(kind, format!("network {name:?}: plugin {plugin:?}: {verb}: {why}"))
}

/// The start of some output, fit for a message.
fn start(output: &[u8]) -> String {
    start_of(String::from_utf8_lossy(output.get(..LONGEST_COMPLAINT).unwrap_or(output)).trim())
}

fn start_of(text: &str) -> String {
    text.chars().take(512).map(|sign| if sign.is_control() { ' ' } else { sign }).collect()
}

#[cfg(test)]
mod tests;
