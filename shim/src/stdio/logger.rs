//! A logging program (`binary://PATH?NAME=VALUE&…`): it reads both outputs of a process itself, as descriptors 3 and 4, and
//! says on 5, by a byte or by closing it, that it is ready. The words of its query are its arguments; of its environment it
//! has `CONTAINER_ID` and `CONTAINER_NAMESPACE` and nothing else, as with containerd.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::timeout;
use windlass_model::{Context, Error, Result};
use windlass_sys::{inherit, process};

use super::{pipe, watched};
use crate::log::Stream;

/// How long it may take to become ready before the process is started nevertheless.
const READY: Duration = Duration::from_secs(10);
/// How long it may go on when the outputs have ended, and again when it is told to end.
const END: Duration = Duration::from_secs(5);
/// SIGTERM and SIGKILL.
const SIGNALS: [u32; 2] = [15, 9];
/// Above the numbers that it gets, so that none is given over another.
const HIGH: i32 = 10;

/// Whose output it is told that it gets.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The container, or the exec.
    pub id: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
}

/// A logging program that runs. It ends by itself when the outputs end; one that is dropped and not finished is killed.
#[derive(Debug)]
pub struct Logger {
    pid: u32,
    /// Readable when it has ended.
    handle: OwnedFd,
    ready: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Logger {
    /// Starts the program that `uri` names.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(uri: &str, whose: Whose<'_>) -> Result<Self> {
        let rest = uri.strip_prefix("binary://").unwrap_or(uri);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let wrong = || Error::invalid(format!("stdio {uri:?} names no logging program"));
        let path = decode(path, false).filter(|path| path.starts_with('/')).ok_or_else(wrong)?;
        let mut command = Command::new(&path);
        for word in query.split('&').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            command.arg(decode(name, true).ok_or_else(wrong)?).arg(decode(value, true).ok_or_else(wrong)?);
        }
        command.env_clear().env("CONTAINER_ID", whose.id).env("CONTAINER_NAMESPACE", whose.namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let ((out, stdout), (err, stderr), (ready, said)) = (pipe()?, pipe()?, pipe()?);
        for (end, number) in [(out, 3), (err, 4), (said, 5)] {
            let high = rustix::io::fcntl_dupfd_cloexec(&end, HIGH).map_err(std::io::Error::from);
            inherit::pass(&mut command, high.context(|| "make a descriptor".into())?, number);
        }
        // Nobody waits for it by this: the shim reaps all its children.
        let pid = command.spawn().context(|| format!("start the logging program {path}"))?.id();
        let handle = process::open_handle(pid)?;
        Ok(Self { pid, handle, ready: Some(ready), stdout: Some(stdout), stderr: Some(stderr) })
    }

    /// The end that a process writes to, once for each stream.
    ///
    /// # Errors
    /// Where it was taken before.
    pub fn take(&mut self, stream: Stream) -> Result<OwnedFd> {
        let end = match stream {
            Stream::Stdout => self.stdout.take(),
            Stream::Stderr => self.stderr.take(),
        };
        end.ok_or_else(|| Error::internal("an output has two logs"))
    }

    /// Lets go of what nobody took, so that it ends.
    pub fn settle(&mut self) {
        (self.stdout, self.stderr) = (None, None);
    }

    /// What becomes readable when it is ready; see [`ready`].
    pub fn take_ready(&mut self) -> Option<OwnedFd> {
        self.ready.take()
    }

    /// Waits for its end, which it is helped to where that does not come.
    pub async fn finish(mut self) {
        self.settle();
        let handle = rustix::io::fcntl_dupfd_cloexec(&self.handle, HIGH).map_err(std::io::Error::from);
        let Ok(Ok(handle)) = handle.map(watched) else { return };
        for signal in SIGNALS {
            if timeout(END, handle.readable()).await.is_ok() {
                return;
            }
            eprintln!("a logging program does not end by itself and gets signal {signal}");
            // It has not ended, so it has not been reaped and the id is its own. Scripts have children.
            process::signal_group(self.pid, signal);
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        // By its handle, as it may have been reaped long ago.
        rustix::process::pidfd_send_signal(&self.handle, rustix::process::Signal::KILL).ok();
    }
}

/// Waits until a logging program is ready, but not for ever.
pub async fn ready(said: OwnedFd) {
    let Ok(said) = watched(said) else { return };
    if timeout(READY, said.readable()).await.is_err() {
        eprintln!("a logging program does not say that it is ready");
    }
}

/// Undoes percent-encoding, and in a query the plus for a space; nothing where it is broken.
fn decode(text: &str, query: bool) -> Option<String> {
    let text = if query { text.replace('+', " ") } else { text.to_owned() };
    windlass_wire::stdio::unescape(&text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn it_gets_its_outputs_arguments_and_environment() {
        let folder = std::env::temp_dir().join(format!("w-logger-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("log ger");
        let script = "#!/bin/sh\nexec >\"$2\"\necho \"$1,$3,$4\"\n/usr/bin/env | /bin/grep CONTAINER | /usr/bin/sort\n\
                      exec 5>&-\n/bin/cat <&3\n/bin/cat <&4\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let said = folder.join("said");
        let uri = format!("binary://{}/log%20ger?to={}&a+b=", folder.display(), said.display());
        let mut logger = Logger::start(&uri, Whose { id: "c", namespace: "n" }).unwrap();
        ready(logger.take_ready().unwrap()).await;
        for (stream, text) in [(Stream::Stdout, "out\n"), (Stream::Stderr, "err\n")] {
            fs::File::from(logger.take(stream).unwrap()).write_all(text.as_bytes()).unwrap();
        }
        assert!(logger.take(Stream::Stdout).is_err());
        logger.finish().await;
        let text = fs::read_to_string(&said).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(text, "to,a b,\nCONTAINER_ID=c\nCONTAINER_NAMESPACE=n\nout\nerr\n");
    }

    #[test]
    fn what_names_no_program_is_refused() {
        let whose = Whose { id: "c", namespace: "n" };
        for bad in ["binary://", "binary://x", "binary:///%zz", "binary:///bin/true?%zz=1", "binary:///no/such"] {
            assert!(Logger::start(bad, whose).is_err(), "{bad}");
        }
    }
}
