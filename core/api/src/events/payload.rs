//! Events as containerd's messages, and the fields of these that filters name.

use std::borrow::Cow;

use containerd_client::events::{
    ContainerCreate, ContainerDelete, ContainerUpdate, ContentCreate, ContentDelete, NamespaceCreate, NamespaceDelete,
    NamespaceUpdate, SnapshotCommit, SnapshotPrepare, SnapshotRemove, TaskCheckpointed, TaskCreate, TaskDelete,
    TaskExecAdded, TaskExecStarted, TaskExit, TaskIo, TaskOom, TaskPaused, TaskResumed, TaskStart, container_create,
};
use containerd_client::services::v1::{ImageCreate, ImageDelete, ImageUpdate};
use containerd_client::to_any;
use prost::{Message, Name};
use prost_types::{Any, Timestamp as Moment};
use windlass_model::Timestamp;
use windlass_model::event::{Envelope, Event, TaskSetup};
use windlass_model::snapshotter::Labels;

use crate::words;

/// A sandbox was made, or runs: the messages of sandboxes are not in `containerd-client`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct SandboxCreate {
    #[prost(string, tag = "1")]
    pub sandbox_id: String,
}

/// A sandbox runs.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct SandboxStart {
    #[prost(string, tag = "1")]
    pub sandbox_id: String,
}

/// A sandbox ended.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxExit {
    #[prost(string, tag = "1")]
    pub sandbox_id: String,
    #[prost(uint32, tag = "2")]
    pub exit_status: u32,
    #[prost(message, optional, tag = "3")]
    pub exited_at: Option<Moment>,
}

macro_rules! named {
    ($($name:ident)+) => {$(
        impl Name for $name {
            const NAME: &'static str = stringify!($name);
            const PACKAGE: &'static str = "containerd.events";
        }
    )+};
}

named!(SandboxCreate SandboxStart SandboxExit);

/// The message of an event, under its bare name.
pub(super) fn any(event: &Event) -> Any {
    match event {
        Event::Opaque { message, .. } => Any { type_url: message.type_url.clone(), value: message.value.clone() },
        event if event.topic().starts_with("/tasks/") => task(event),
        event => record(event),
    }
}

/// The message of an event of records.
fn record(event: &Event) -> Any {
    match event.clone() {
        Event::NamespaceCreate { name, labels } => to_any(&NamespaceCreate { name, labels: map(labels) }),
        Event::NamespaceUpdate { name, labels } => to_any(&NamespaceUpdate { name, labels: map(labels) }),
        Event::NamespaceDelete { name } => to_any(&NamespaceDelete { name }),
        Event::ContentCreate { digest, size } => to_any(&ContentCreate { digest, size: words::size(size) }),
        Event::ContentDelete { digest } => to_any(&ContentDelete { digest }),
        Event::ImageCreate { name, labels } => to_any(&ImageCreate { name, labels: map(labels) }),
        Event::ImageUpdate { name, labels } => to_any(&ImageUpdate { name, labels: map(labels) }),
        Event::ImageDelete { name } => to_any(&ImageDelete { name }),
        Event::SnapshotPrepare { key, parent, snapshotter } => to_any(&SnapshotPrepare { key, parent, snapshotter }),
        Event::SnapshotCommit { key, name, snapshotter } => to_any(&SnapshotCommit { key, name, snapshotter }),
        Event::SnapshotRemove { key, snapshotter } => to_any(&SnapshotRemove { key, snapshotter }),
        Event::ContainerCreate { id, image, runtime: name, options } => {
            let runtime = Some(container_create::Runtime { name, options: options.map(words::any) });
            to_any(&ContainerCreate { id, image, runtime })
        }
        Event::ContainerUpdate { id, image, labels, snapshot_key } => {
            to_any(&ContainerUpdate { id, image, labels: map(labels), snapshot_key })
        }
        Event::ContainerDelete { id } => to_any(&ContainerDelete { id }),
        Event::SandboxCreate { id: sandbox_id } => to_any(&SandboxCreate { sandbox_id }),
        Event::SandboxStart { id: sandbox_id } => to_any(&SandboxStart { sandbox_id }),
        Event::SandboxExit { id: sandbox_id, status: exit_status, at } => {
            to_any(&SandboxExit { sandbox_id, exit_status, exited_at: moment(at) })
        }
        // The others have topics of tasks.
        _ => Any::default(),
    }
}

/// The message of an event of a task.
fn task(event: &Event) -> Any {
    match event.clone() {
        Event::TaskCreate { container: container_id, pid, setup } => {
            let TaskSetup { bundle, rootfs, stdin, stdout, stderr, terminal, checkpoint } = *setup;
            let io = Some(TaskIo { stdin, stdout, stderr, terminal });
            let rootfs = rootfs.into_iter().map(words::mount).collect();
            to_any(&TaskCreate { container_id, bundle, rootfs, io, checkpoint, pid })
        }
        Event::TaskStart { container: container_id, pid } => to_any(&TaskStart { container_id, pid }),
        Event::TaskExecAdded { container: container_id, exec: exec_id } => {
            to_any(&TaskExecAdded { container_id, exec_id })
        }
        Event::TaskExecStarted { container: container_id, exec: exec_id, pid } => {
            to_any(&TaskExecStarted { container_id, exec_id, pid })
        }
        Event::TaskExit { container: container_id, process: id, pid, status: exit_status, at } => {
            to_any(&TaskExit { container_id, id, pid, exit_status, exited_at: moment(at) })
        }
        Event::TaskOom { container: container_id } => to_any(&TaskOom { container_id }),
        Event::TaskPaused { container: container_id } => to_any(&TaskPaused { container_id }),
        Event::TaskResumed { container: container_id } => to_any(&TaskResumed { container_id }),
        Event::TaskCheckpointed { container: container_id, checkpoint } => {
            to_any(&TaskCheckpointed { container_id, checkpoint })
        }
        Event::TaskDelete { container: container_id, process: id, pid, status: exit_status, at } => {
            to_any(&TaskDelete { container_id, pid, exit_status, exited_at: moment(at), id })
        }
        // The others have other topics.
        _ => Any::default(),
    }
}

/// What a filter sees of an event: `namespace`, `topic`, and `event.<field>` of its message.
pub(super) fn field<'a>(envelope: &'a Envelope, path: &[String]) -> Option<Cow<'a, str>> {
    match path.first()?.as_str() {
        "namespace" => words::field(envelope.namespace.as_str()),
        "topic" => words::field(envelope.event.topic()),
        "event" => words::field(message_field(&any(&envelope.event), &path[1..])?),
        _ => None,
    }
}

/// A field of a message that we know: texts, and labels.
fn message_field(any: &Any, path: &[String]) -> Option<String> {
    let name = any.type_url.rsplit('/').next()?;
    let (first, rest) = (path.first()?.as_str(), path.get(1..)?);
    macro_rules! table {
        ($($message:ident { $($text:ident)* } [$($map:ident)?])+) => {$(
            if name == $message::full_name() {
                let message = $message::decode(any.value.as_slice()).ok()?;
                return match first {
                    $(stringify!($text) => Some(message.$text),)*
                    $(stringify!($map) => message.$map.get(&rest.join(".")).cloned(),)?
                    _ => None,
                };
            }
        )+};
    }
    if name == ContainerCreate::full_name() && first == "runtime" {
        let message = ContainerCreate::decode(any.value.as_slice()).ok()?;
        return message.runtime.filter(|_| rest == ["name"]).map(|runtime| runtime.name);
    }
    table! {
        NamespaceCreate { name } [labels]
        NamespaceUpdate { name } [labels]
        NamespaceDelete { name } []
        ContentCreate { digest } []
        ContentDelete { digest } []
        ImageCreate { name } [labels]
        ImageUpdate { name } [labels]
        ImageDelete { name } []
        SnapshotPrepare { key parent snapshotter } []
        SnapshotCommit { key name snapshotter } []
        SnapshotRemove { key snapshotter } []
        ContainerCreate { id image } []
        ContainerUpdate { id image snapshot_key } [labels]
        ContainerDelete { id } []
        SandboxCreate { sandbox_id } []
        SandboxStart { sandbox_id } []
        SandboxExit { sandbox_id } []
        TaskCreate { container_id bundle checkpoint } []
        TaskStart { container_id } []
        TaskExecAdded { container_id exec_id } []
        TaskExecStarted { container_id exec_id } []
        TaskExit { container_id id } []
        TaskOom { container_id } []
        TaskPaused { container_id } []
        TaskResumed { container_id } []
        TaskCheckpointed { container_id checkpoint } []
        TaskDelete { container_id id } []
    }
    None
}

fn map(labels: Labels) -> std::collections::HashMap<String, String> {
    labels.into_iter().collect()
}

fn moment(at: Timestamp) -> Option<Moment> {
    let (seconds, nanos) = at.parts();
    Some(Moment { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use windlass_model::TypedBytes;
    use windlass_model::filter::Filter;

    use super::*;

    fn envelope(event: Event) -> Envelope {
        Envelope { sequence: 1, timestamp: Timestamp(1), namespace: "moby".parse().expect("a name"), event }
    }

    fn matches(envelope: &Envelope, filter: &str) -> bool {
        Filter::parse(&[filter]).expect("a filter").matches(|path| field(envelope, path))
    }

    #[test]
    fn names_of_messages_are_bare() {
        let exit = Event::TaskExit { container: "c".into(), process: "e".into(), pid: 1, status: 3, at: Timestamp(5) };
        assert_eq!(any(&exit).type_url, "containerd.events.TaskExit");
        let image = Event::ImageCreate { name: "n".into(), labels: Labels::new() };
        assert_eq!(any(&image).type_url, "containerd.services.images.v1.ImageCreate");
        let sandbox = Event::SandboxExit { id: "s".into(), status: 137, at: Timestamp(5) };
        assert_eq!(any(&sandbox).type_url, "containerd.events.SandboxExit");
    }

    #[test]
    fn filters_see_what_containerd_shows_them() {
        let exit = Event::TaskExit { container: "c".into(), process: "e".into(), pid: 1, status: 3, at: Timestamp(5) };
        let exit = envelope(exit);
        for good in [
            "namespace==moby,topic~=|^/tasks/|",
            "topic==\"/tasks/exit\"",
            "event.container_id==c,event.id==e",
            "event.id",
            "event.nothing!=x",
        ] {
            assert!(matches(&exit, good), "{good}");
        }
        for bad in ["namespace==k8s.io", "topic~=|^/images/|", "event.container_id==d", "event.nothing", "event"] {
            assert!(!matches(&exit, bad), "{bad}");
        }
        let labels = Labels::from([("a.b/c".to_owned(), "1".to_owned())]);
        let image = envelope(Event::ImageUpdate { name: "n".into(), labels });
        assert!(matches(&image, "event.name==n,event.labels.\"a.b/c\"==1"));
        let (id, image, runtime) = ("c".into(), "i".into(), "io.containerd.runc.v2".into());
        let container = envelope(Event::ContainerCreate { id, image, runtime, options: None });
        assert!(matches(&container, "event.runtime.name==io.containerd.runc.v2,event.image==i"));
    }

    #[test]
    fn a_foreign_message_is_passed_on_as_it_is() {
        let message = TypedBytes { type_url: "types.containerd.io/x".into(), value: b"{}".to_vec() };
        let foreign = envelope(Event::Opaque { topic: "/x/y".into(), message });
        assert_eq!(any(&foreign.event), Any { type_url: "types.containerd.io/x".into(), value: b"{}".to_vec() });
        assert!(matches(&foreign, "topic==\"/x/y\"") && !matches(&foreign, "event.id"));
    }
}
