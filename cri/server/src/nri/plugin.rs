//! One plugin: how it joins, what it wants to hear, and what becomes of one that does not answer.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::mpsc;
use windlass_cri_api::nri;
use windlass_model::{Error, Kind, Result};

use super::frame::MAX_MESSAGE;
use super::link::{Call, Failure, Link};

/// What we call ourselves.
const RUNTIME_NAME: &str = "windlass";
/// The version of the protocol.
const NRI_VERSION: &str = "v0.12.0";
/// All events there are, as a mask.
const ALL: i32 = (1 << (nri::Event::Last as i32 - 1)) - 1;
/// The most of one piece of the state that a joining plugin is told, in bytes; the rest is for the envelopes.
const MAX_PIECE: usize = MAX_MESSAGE - (64 << 10);

/// How long plugins may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the connection to the registration.
    pub(super) registration: Duration,
    /// For each call.
    pub(super) request: Duration,
}

/// A plugin that was started by us.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) name: String,
    pub(super) index: String,
    pub(super) config: String,
    pub(super) process: Child,
}

/// A plugin that has registered and said what it wants.
pub(super) struct Plugin {
    name: String,
    index: String,
    events: i32,
    /// It asked to judge; who asks for nothing is told everything and judges nothing.
    is_judge: bool,
    link: Arc<Link>,
    patience: Patience,
    /// Plugins are written for one call at a time.
    turn: tokio::sync::Mutex<()>,
    /// Ends with the plugin.
    _process: Option<Mutex<Child>>,
}

impl Plugin {
    /// Waits for the registration of whoever is at the other end of `socket` and configures it. Gives its further calls.
    ///
    /// # Errors
    /// Where it does not register in time, under a wrong name, or wants events that there are not.
    pub(super) async fn join(
        socket: UnixStream,
        started: Option<Started>,
        patience: Patience,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Call>)> {
        let (link, mut calls) = Link::open(socket);
        let joined = Self::register(&link, &mut calls, started, patience).await;
        match joined {
            Ok(plugin) => Ok((Arc::new(plugin), calls)),
            Err(error) => {
                link.close();
                Err(error)
            }
        }
    }

    async fn register(
        link: &Arc<Link>,
        calls: &mut mpsc::Receiver<Call>,
        started: Option<Started>,
        patience: Patience,
    ) -> Result<Self> {
        let late = |_| Error::deadline(format!("it did not register within {:?}", patience.registration));
        let call = tokio::time::timeout(patience.registration, calls.recv()).await.map_err(late)?;
        let call = call.ok_or_else(|| Error::new(Kind::Unavailable, "it left before it registered"))?;
        let named = named(&call, started.as_ref());
        let answer = match &named {
            Ok(_) => Ok(nri::Empty {}.encode_to_vec()),
            Err(error) => Err(error.share()),
        };
        link.answer(&call, answer).await;
        let (index, name) = named?;
        let (config, process) = match started {
            Some(started) => (started.config, Some(Mutex::new(started.process))),
            None => (String::new(), None),
        };
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let request = nri::ConfigureRequest {
            config,
            runtime_name: RUNTIME_NAME.into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            registration_timeout: millis(patience.registration),
            request_timeout: millis(patience.request),
            nri_version: NRI_VERSION.into(),
        };
        let answer: nri::ConfigureResponse = link
            .call("Configure", &request, patience.request)
            .await
            .map_err(|error| Error::precondition(format!("plugin {index}-{name} cannot be configured: {error}")))?;
        let events = if answer.events == 0 { ALL } else { answer.events };
        if events & !ALL != 0 {
            return Err(Error::invalid(format!("plugin {index}-{name} wants unknown events: {events:#x}")));
        }
        let turn = tokio::sync::Mutex::default();
        let is_judge = answer.events & (1 << (nri::Event::ValidateContainerAdjustment as i32 - 1)) != 0;
        Ok(Self { name, index, events, is_judge, link: link.clone(), patience, turn, _process: process })
    }

    /// `index-name`.
    pub(super) fn title(&self) -> String {
        format!("{}-{}", self.index, self.name)
    }

    /// Where it comes in the order of plugins.
    pub(super) fn index(&self) -> &str {
        &self.index
    }

    /// Its name without the index.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// True where nothing may be made without its judgement.
    pub(super) fn is_judge(&self) -> bool {
        self.is_judge
    }

    /// Its connection.
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// True where it wants to hear of `event`.
    pub(super) fn wants(&self, event: nri::Event) -> bool {
        self.events & (1 << (event as i32 - 1)) != 0
    }

    /// Asks it; nothing where it does not want to be asked, or is lost, in which case it is cut off and pods go on.
    ///
    /// # Errors
    /// What it answers.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        event: nri::Event,
        method: &str,
        request: &impl Message,
    ) -> Result<Option<A>> {
        if !self.wants(event) {
            return Ok(None);
        }
        match self.call(method, request, self.patience.request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Refused { code, message }) => {
                let kind = Kind::from_code(code);
                Err(Error::new(kind, format!("plugin {} refuses {method}: {message}", self.title())))
            }
            Err(Failure::Lost(error)) => {
                self.cut_off(method, &error);
                Ok(None)
            }
        }
    }

    /// Tells it of an event of a pod, or of a container in it. Plugins that have no method for it get it as a change of
    /// state.
    ///
    /// # Errors
    /// As [`Plugin::ask`].
    pub(super) async fn tell(
        &self,
        event: nri::Event,
        method: &str,
        request: &impl Message,
        about: (&nri::PodSandbox, Option<&nri::Container>),
    ) -> Result<()> {
        match self.ask::<nri::Empty>(event, method, request).await {
            Err(error) if error.kind() == Kind::Unimplemented => {
                let (pod, container) = (Some(about.0.clone()), about.1.cloned());
                let change = nri::StateChangeEvent { event: event.into(), pod, container };
                match self.ask::<nri::Empty>(event, "StateChange", &change).await {
                    Err(error) if error.kind() == Kind::Unimplemented => Ok(()),
                    told => told.map(drop),
                }
            }
            told => told.map(drop),
        }
    }

    /// Tells it everything that there is, in as many pieces as it takes; gives the changes that it wants.
    ///
    /// # Errors
    /// Where it refuses, or cannot take pieces; it is to be cut off.
    pub(super) async fn synchronize(
        &self,
        pods: Vec<nri::PodSandbox>,
        containers: Vec<nri::Container>,
    ) -> Result<Vec<nri::ContainerUpdate>> {
        let mut pieces = pieces(pods, containers).into_iter().peekable();
        while let Some(piece) = pieces.next() {
            let more = pieces.peek().is_some();
            let request = nri::SynchronizeRequest { more, ..piece };
            // No pod is under way that waits for it, so it may take as long as the registration.
            let patience = self.patience.registration.max(self.patience.request);
            let answer: Result<nri::SynchronizeResponse, _> = self.call("Synchronize", &request, patience).await;
            let answer = answer
                .map_err(|error| Error::precondition(format!("plugin {} cannot synchronize: {error}", self.title())))?;
            if !more {
                return Ok(answer.update);
            }
            if !answer.more || !answer.update.is_empty() {
                return Err(Error::precondition(format!("plugin {} cannot take the state in pieces", self.title())));
            }
        }
        Ok(Vec::new())
    }

    /// Says good-bye: the runtime ends.
    pub(super) async fn shut_down(&self) {
        // It need not have the method, and it may be gone.
        let _ = self.call::<nri::Empty>("Shutdown", &nri::Empty {}, self.patience.request).await;
        self.link.close();
    }

    async fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
        patience: Duration,
    ) -> Result<A, Failure> {
        let _turn = self.turn.lock().await;
        if self.link.has_ended() {
            return Err(Failure::Lost(Error::new(Kind::Unavailable, "it is gone")));
        }
        let answer = self.link.call(method, request, patience).await;
        // Before the turn ends, so that who waits for it does not wait for another time-out.
        if matches!(answer, Err(Failure::Lost(_))) {
            self.link.close();
        }
        answer
    }

    fn cut_off(&self, method: &str, error: &Error) {
        tracing::warn!(plugin = self.title(), method, %error, "a plugin is lost; pods go on without it");
        self.link.close();
    }
}

/// Index and name with which a plugin registers; one that was started by us has had them from us.
fn named(call: &Call, started: Option<&Started>) -> Result<(String, String)> {
    let method = call.method.as_ref().map_err(Error::share)?;
    if method != "RegisterPlugin" {
        return Err(Error::precondition(format!("{method} comes before RegisterPlugin")));
    }
    let request = nri::RegisterPluginRequest::decode(call.payload.as_slice());
    let request = request.map_err(|error| Error::invalid(format!("RegisterPlugin: {error}")))?;
    let (index, name) = match started {
        Some(started) => (started.index.clone(), started.name.clone()),
        None => (request.plugin_idx, request.plugin_name),
    };
    check_name(&index, &name)?;
    Ok((index, name))
}

/// Checks an index (two digits) and a name.
///
/// # Errors
/// [`Kind::InvalidArgument`].
pub(super) fn check_name(index: &str, name: &str) -> Result<()> {
    if index.len() != 2 || !index.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(Error::invalid(format!("plugin index {index:?} is not two digits")));
    }
    let plain = name.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"._-".contains(&letter));
    if name.is_empty() || name.len() > 255 || !plain {
        return Err(Error::invalid(format!("plugin name {name:?} is not letters, digits, '.', '_' and '-'")));
    }
    Ok(())
}

/// Cuts the state into pieces that each fit into a message; there is one at least.
fn pieces(pods: Vec<nri::PodSandbox>, containers: Vec<nri::Container>) -> Vec<nri::SynchronizeRequest> {
    let mut pieces = vec![nri::SynchronizeRequest::default()];
    let mut size = 0;
    let mut room = |length: usize, pieces: &mut Vec<nri::SynchronizeRequest>| {
        // Tag and length of a field take no more than that.
        size += length + 16;
        if size > MAX_PIECE && size > length + 16 {
            pieces.push(nri::SynchronizeRequest::default());
            size = length + 16;
        }
    };
    for pod in pods {
        room(pod.encoded_len(), &mut pieces);
        pieces.iter_mut().last().into_iter().for_each(|piece| piece.pods.push(pod.clone()));
    }
    for container in containers {
        room(container.encoded_len(), &mut pieces);
        pieces.iter_mut().last().into_iter().for_each(|piece| piece.containers.push(container.clone()));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(check_name("00", "logger").is_ok() && check_name("99", "a.b_c-9").is_ok());
        for (index, name) in [("0", "a"), ("000", "a"), ("a0", "a"), ("", "a"), ("00", ""), ("00", "a/b"), ("00", "ä")]
        {
            assert!(check_name(index, name).is_err(), "{index} {name}");
        }
    }

    #[test]
    fn state_is_cut_into_messages_that_fit() {
        let pod = |id: &str| nri::PodSandbox { id: id.into(), ..Default::default() };
        let container = |id: usize, size: usize| nri::Container {
            id: id.to_string(),
            args: vec!["x".repeat(size)],
            ..Default::default()
        };
        assert_eq!(pieces(vec![], vec![]).len(), 1);
        let small = pieces(vec![pod("a")], vec![container(1, 10)]);
        assert_eq!((small.len(), small[0].pods.len(), small[0].containers.len()), (1, 1, 1));
        let containers: Vec<_> = (0..10).map(|id| container(id, 1 << 20)).collect();
        let many = pieces(vec![pod("a"), pod("b")], containers.clone());
        assert!(many.len() > 2 && many.iter().all(|piece| piece.encoded_len() < MAX_MESSAGE));
        let again: Vec<_> = many.into_iter().flat_map(|piece| piece.containers).collect();
        assert_eq!(again, containers);
    }

    #[test]
    fn all_events_are_a_mask() {
        assert_eq!(ALL, 0x3fff);
    }
}
