//! Clients that are attached to a process: each gets a copy of what it writes from now on, and may write to its input.
//!
//! A client is a few named pipes. All that is kept for one that lags is in the kernel, in its pipe; what does not fit is
//! dropped, counted, and told to it once it reads again. So it holds up neither the process, nor its log, nor another
//! client. It is gone when it has closed its ends.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::io::{Errno, read, write};
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use windlass_model::{Context, Error, Result};

use super::copy::{SMALL, send};

/// How far a client may lag, in bytes.
const LAG: usize = 256 * 1024;
/// How often, and how far apart, a client that is behind at the end is tried: 10 s in all.
const LAST_TRIES: u32 = 200;
const LAST_PAUSE: Duration = Duration::from_millis(50);
/// How many clients may look at one output at the same time.
const MOST: usize = 64;

/// Whoever gets a copy of one output; nobody any more once that has ended.
#[derive(Debug)]
pub struct Viewers(Mutex<Option<Vec<Viewer>>>);

/// A client of one output.
#[derive(Debug)]
struct Viewer {
    pipe: Arc<AsyncFd<OwnedFd>>,
    /// Bytes that it did not get since the last that it did.
    lost: u64,
    /// Notices when it goes.
    watcher: AbortHandle,
    _present: Presence,
}

/// Held for a client by each output that it looks at.
pub type Presence = mpsc::Sender<Infallible>;

/// A process's input that clients share: open until it is closed.
#[derive(Clone, Debug)]
pub struct Input {
    target: Arc<Mutex<Option<Arc<AsyncFd<OwnedFd>>>>>,
    terminal: bool,
    once: bool,
}

impl Viewers {
    /// Nobody yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Vec::new()))))
    }

    fn list(&self) -> MutexGuard<'_, Option<Vec<Viewer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a client; where the output has ended, it sees that at once.
    ///
    /// # Errors
    /// [`windlass_model::Kind::ResourceExhausted`] where there are too many.
    pub fn add(self: &Arc<Self>, pipe: OwnedFd, present: Presence) -> Result<()> {
        let mut list = self.list();
        let Some(list) = list.as_mut() else { return Ok(()) };
        if list.len() >= MOST {
            return Err(Error::new(windlass_model::Kind::ResourceExhausted, format!("{MOST} clients are attached")));
        }
        // Where the kernel does not give so much, its own measure is enough.
        rustix::pipe::fcntl_setpipe_size(&pipe, LAG).ok();
        // What is deprecated is that any type may stand in for a descriptor; this one owns it.
        #[allow(deprecated)]
        let pipe = AsyncFd::with_interest(pipe, Interest::ERROR).context(|| "watch a descriptor".into())?;
        let pipe = Arc::new(pipe);
        let watcher = tokio::spawn(watch(Arc::downgrade(self), Arc::clone(&pipe))).abort_handle();
        list.push(Viewer { pipe, lost: 0, watcher, _present: present });
        Ok(())
    }

    /// Gives everybody a copy, without waiting for anybody.
    pub fn offer(&self, bytes: &[u8]) {
        if let Some(list) = self.list().as_mut() {
            list.retain_mut(|viewer| viewer.offer(bytes));
        }
    }

    /// The output has ended. Who is behind is told what is missing once it reads on, if that is soon.
    pub fn close(&self) {
        let viewers = self.list().take().unwrap_or_default();
        for viewer in viewers.into_iter().filter(|viewer| viewer.lost > 0) {
            tokio::spawn(viewer.last_word());
        }
    }

    fn remove(&self, pipe: &Arc<AsyncFd<OwnedFd>>) {
        if let Some(list) = self.list().as_mut() {
            list.retain(|viewer| !Arc::ptr_eq(&viewer.pipe, pipe));
        }
    }
}

/// Waits until the client has closed its end.
async fn watch(viewers: Weak<Viewers>, pipe: Arc<AsyncFd<OwnedFd>>) {
    pipe.ready(Interest::ERROR).await.ok();
    if let Some(viewers) = viewers.upgrade() {
        viewers.remove(&pipe);
    }
}

impl Viewer {
    /// False where the client is gone.
    fn offer(&mut self, mut bytes: &[u8]) -> bool {
        if self.lost > 0 {
            // Short enough for the kernel to take it whole or not at all.
            let note = format!("\r\nwindlass: {} bytes are missing here: they were not read in time\r\n", self.lost);
            match write(self.pipe.get_ref(), note.as_bytes()) {
                Ok(_) => self.lost = 0,
                Err(Errno::PIPE) => return false,
                Err(_) => {
                    self.lost += bytes.len() as u64;
                    return true;
                }
            }
        }
        while !bytes.is_empty() {
            match write(self.pipe.get_ref(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::PIPE) => return false,
                Err(_) => {
                    self.lost += bytes.len() as u64;
                    break;
                }
            }
        }
        true
    }
}

impl Viewer {
    /// Says what is missing at the end, as soon as the client has made room for it.
    async fn last_word(mut self) {
        for _ in 0..LAST_TRIES {
            if !self.offer(&[]) || self.lost == 0 {
                return;
            }
            tokio::time::sleep(LAST_PAUSE).await;
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // It holds the pipe too, and the client is to see the end.
        self.watcher.abort();
    }
}

impl Input {
    /// The input behind `target`, which ends with the first client's where it is for one only.
    pub fn new(target: Arc<AsyncFd<OwnedFd>>, terminal: bool, once: bool) -> Self {
        Self { target: Arc::new(Mutex::new(Some(target))), terminal, once }
    }

    fn target(&self) -> Option<Arc<AsyncFd<OwnedFd>>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the process see the end of its input.
    pub fn close(&self) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(console) = target.filter(|_| self.terminal) {
            press_end(&console, true);
        }
    }

    /// Carries what a client writes until it ends or the client is `gone`; one that looks at no output never is.
    pub async fn carry(self, from: AsyncFd<OwnedFd>, mut gone: Option<mpsc::Receiver<Infallible>>) {
        let mut buffer = Vec::new();
        loop {
            let Ok(mut ready) = from.readable().await else { break };
            buffer.resize(SMALL, 0);
            match read(from.get_ref(), &mut buffer[..]) {
                Ok(0) => break,
                Ok(count) => {
                    let Some(target) = self.target() else { return };
                    let left = async {
                        match &mut gone {
                            Some(gone) => gone.recv().await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        sent = send(&target, &buffer[..count]) => if !sent { return },
                        // A process that does not read must not keep what is left of a client.
                        _ = left => break,
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    buffer = Vec::new();
                }
                Err(_) => break,
            }
        }
        if self.once {
            self.close();
        }
    }
}

/// A terminal has no end that could be closed: its programs see one where its key for that is pressed, at the beginning of
/// a line once and in the middle twice. Programs that want keys and not lines are left alone.
pub fn press_end(console: &AsyncFd<OwnedFd>, at_line_start: bool) {
    let Ok(modes) = tcgetattr(console.get_ref()) else { return };
    if modes.local_modes.contains(LocalModes::ICANON) {
        let key = modes.special_codes[SpecialCodeIndex::VEOF];
        let keys = [key, key];
        write(console.get_ref(), if at_line_start { &keys[..1] } else { &keys }).ok();
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
    }

    fn presence() -> (Presence, mpsc::Receiver<Infallible>) {
        mpsc::channel(1)
    }

    fn take(from: &OwnedFd) -> Vec<u8> {
        let mut all = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = read(from, &mut piece[..]) {
            all.extend_from_slice(&piece[..count]);
        }
        all
    }

    #[tokio::test]
    async fn who_does_not_read_misses_bytes_and_holds_up_nobody() {
        let viewers = Viewers::new();
        let ((lazy, theirs), (keen, other)) = (pipe(), pipe());
        viewers.add(theirs, presence().0).unwrap();
        viewers.add(other, presence().0).unwrap();
        let mut seen = 0;
        for _ in 0..100 {
            viewers.offer(&[b'x'; 10_000]);
            seen += take(&keen).len();
        }
        assert_eq!(seen, 1_000_000);
        let late = take(&lazy);
        assert!(late.len() >= 64 * 1024 && late.iter().all(|byte| *byte == b'x'));
        viewers.offer(b"again");
        let told = String::from_utf8(take(&lazy)).unwrap();
        let missing = 1_000_000 - late.len();
        assert!(told.contains(&format!("windlass: {missing} bytes are missing")) && told.ends_with("again"), "{told}");
        assert_eq!(take(&keen), b"again");
    }

    #[tokio::test]
    async fn who_is_behind_at_the_end_is_told_so_when_it_reads_on() {
        let viewers = Viewers::new();
        let (client, ours) = pipe();
        viewers.add(ours, presence().0).unwrap();
        viewers.offer(&vec![b'x'; 2 * LAG]);
        viewers.close();
        let mut seen = Vec::new();
        let mut piece = vec![0; LAG];
        loop {
            match read(&client, &mut piece[..]) {
                Ok(0) => break,
                Ok(count) => seen.extend_from_slice(&piece[..count]),
                Err(_) => tokio::time::sleep(LAST_PAUSE / 5).await,
            }
        }
        let seen = String::from_utf8(seen).unwrap();
        let missing = 2 * LAG - seen.bytes().filter(|byte| *byte == b'x').count();
        assert!(missing > 0 && seen.contains(&format!(" {missing} bytes are missing here")), "{} bytes", seen.len());
    }

    #[tokio::test]
    async fn who_goes_is_forgotten_though_nothing_is_written() {
        let viewers = Viewers::new();
        let (ours, theirs) = pipe();
        let (present, mut gone) = presence();
        viewers.add(theirs, present).unwrap();
        drop(ours);
        let left = tokio::time::timeout(Duration::from_secs(5), gone.recv()).await;
        assert_eq!(left.unwrap(), None);
        assert!(viewers.list().as_ref().unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_end_of_the_output_is_seen_by_all_and_by_those_who_come_late() {
        let viewers = Viewers::new();
        let (early, theirs) = pipe();
        viewers.add(theirs, presence().0).unwrap();
        viewers.close();
        let (late, other) = pipe();
        viewers.add(other, presence().0).unwrap();
        let ends = async |pipe: OwnedFd| {
            let pipe = super::super::watched(pipe).unwrap();
            drop(pipe.readable().await.unwrap());
            read(pipe.get_ref(), &mut [0; 1]).unwrap()
        };
        for pipe in [early, late] {
            assert_eq!(tokio::time::timeout(Duration::from_secs(5), ends(pipe)).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn input_for_one_client_ends_with_it() {
        for once in [false, true] {
            let ((process, target), (from, client)) = (pipe(), pipe());
            let input = Input::new(Arc::new(super::super::watched(target).unwrap()), false, once);
            write(&client, b"hello").unwrap();
            drop(client);
            input.clone().carry(super::super::watched(from).unwrap(), None).await;
            assert_eq!(take(&process), b"hello");
            assert_eq!(input.target().is_none(), once);
            assert_eq!(read(&process, &mut [0; 1]), if once { Ok(0) } else { Err(Errno::AGAIN) });
        }
    }

    #[tokio::test]
    async fn a_process_that_does_not_read_keeps_nothing_of_a_client_that_left() {
        let ((_process, target), (from, client)) = (pipe(), pipe());
        let input = Input::new(Arc::new(super::super::watched(target).unwrap()), false, false);
        let (present, gone) = presence();
        let carried = tokio::spawn(input.carry(super::super::watched(from).unwrap(), Some(gone)));
        let client = super::super::watched(client).unwrap();
        let full = tokio::time::timeout(Duration::from_millis(300), send(&client, &[0; 1 << 20])).await;
        assert!(full.is_err(), "more than both pipes hold");
        drop((client, present));
        tokio::time::timeout(Duration::from_secs(5), carried).await.unwrap().unwrap();
    }
}
