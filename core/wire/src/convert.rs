//! Our nouns to and from the wire: moments, mounts, states, errors, and events in their envelopes.

use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp as WireTimestamp;
use protobuf::{EnumOrUnknown, Message, MessageField};
use windlass_model::event::{Event, TaskSetup};
use windlass_model::process::State;
use windlass_model::{Error, Kind, Mount, Result, Timestamp, TypedBytes};

use crate::{events, task};

/// A moment as protobuf has it.
pub fn timestamp(at: Timestamp) -> MessageField<WireTimestamp> {
    let (seconds, nanos) = at.parts();
    MessageField::some(WireTimestamp { seconds, nanos, ..WireTimestamp::default() })
}

/// A moment from protobuf; absent is "never".
pub fn from_timestamp(at: &MessageField<WireTimestamp>) -> Timestamp {
    at.as_ref().map_or_else(Timestamp::default, |at| Timestamp::from_parts(at.seconds, at.nanos))
}

/// A mount as containerd has it.
pub fn mount(mount: &Mount) -> task::Mount {
    task::Mount {
        type_: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
        ..task::Mount::default()
    }
}

/// A mount from containerd's.
pub fn from_mount(mount: task::Mount) -> Mount {
    Mount { kind: mount.type_, source: mount.source, target: mount.target, options: mount.options }
}

/// A process's state as containerd counts it.
pub fn state(state: State) -> EnumOrUnknown<task::Status> {
    EnumOrUnknown::new(match state {
        State::Unknown => task::Status::UNKNOWN,
        State::Created => task::Status::CREATED,
        State::Running => task::Status::RUNNING,
        State::Stopped => task::Status::STOPPED,
        State::Paused => task::Status::PAUSED,
        State::Pausing => task::Status::PAUSING,
    })
}

/// A process's state from containerd's number; one that we do not know is `Unknown`.
pub fn from_state(status: EnumOrUnknown<task::Status>) -> State {
    match status.enum_value_or(task::Status::UNKNOWN) {
        task::Status::UNKNOWN => State::Unknown,
        task::Status::CREATED => State::Created,
        task::Status::RUNNING => State::Running,
        task::Status::STOPPED => State::Stopped,
        task::Status::PAUSED => State::Paused,
        task::Status::PAUSING => State::Pausing,
    }
}

/// An error as a ttrpc server answers it: the whole story in one line.
pub fn error(error: &Error) -> ttrpc::Error {
    let code = EnumOrUnknown::<ttrpc::Code>::from_i32(error.kind().code()).enum_value_or(ttrpc::Code::UNKNOWN);
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, error))
}

/// An error from a ttrpc call. A broken or closed connection is [`Kind::Unavailable`].
pub fn from_error(error: ttrpc::Error) -> Error {
    match error {
        ttrpc::Error::RpcStatus(status) => Error::new(Kind::from_code(status.code.value()), status.message),
        other => Error::new(Kind::Unavailable, other.to_string()),
    }
}

/// A message in an `Any` under a bare type name, as containerd writes it.
pub fn any(type_url: &str, message: &impl Message) -> Result<Any> {
    let value = message
        .write_to_bytes()
        .map_err(|error| Error::with_source(Kind::Internal, format!("encode {type_url}"), error))?;
    Ok(Any { type_url: type_url.into(), value, ..Any::default() })
}

/// The message in an `Any`, its type unchecked.
///
/// # Errors
/// [`Kind::InvalidArgument`] where the bytes are not that message.
pub fn from_any<M: Message>(any: &Any) -> Result<M> {
    M::parse_from_bytes(&any.value)
        .map_err(|error| Error::with_source(Kind::InvalidArgument, format!("decode {}", any.type_url), error))
}

/// An event that shims publish, as containerd's message in an `Any`; `None` for events that only the daemon publishes.
pub fn event(event: &Event) -> Result<Option<Any>> {
    macro_rules! wire {
        ($name:ident { $($field:ident : $value:expr),* $(,)? }) => {
            any(
                concat!("containerd.events.", stringify!($name)),
                &events::$name { $($field: $value,)* ..events::$name::default() },
            ).map(Some)
        };
    }
    match event {
        Event::SandboxExit { id, status, at } => {
            wire!(SandboxExit { sandbox_id: id.clone(), exit_status: *status, exited_at: timestamp(*at) })
        }
        Event::TaskCreate { container, pid, setup } => wire!(TaskCreate {
            container_id: container.clone(),
            bundle: setup.bundle.clone(),
            rootfs: setup.rootfs.iter().map(mount).collect(),
            io: MessageField::some(events::TaskIO {
                stdin: setup.stdin.clone(),
                stdout: setup.stdout.clone(),
                stderr: setup.stderr.clone(),
                terminal: setup.terminal,
                ..events::TaskIO::default()
            }),
            checkpoint: setup.checkpoint.clone(),
            pid: *pid,
        }),
        Event::TaskStart { container, pid } => wire!(TaskStart { container_id: container.clone(), pid: *pid }),
        Event::TaskExecAdded { container, exec } => {
            wire!(TaskExecAdded { container_id: container.clone(), exec_id: exec.clone() })
        }
        Event::TaskExecStarted { container, exec, pid } => {
            wire!(TaskExecStarted { container_id: container.clone(), exec_id: exec.clone(), pid: *pid })
        }
        Event::TaskExit { container, process, pid, status, at } => wire!(TaskExit {
            container_id: container.clone(),
            id: process.clone(),
            pid: *pid,
            exit_status: *status,
            exited_at: timestamp(*at),
        }),
        Event::TaskOom { container } => wire!(TaskOOM { container_id: container.clone() }),
        Event::TaskPaused { container } => wire!(TaskPaused { container_id: container.clone() }),
        Event::TaskResumed { container } => wire!(TaskResumed { container_id: container.clone() }),
        Event::TaskCheckpointed { container, checkpoint } => {
            wire!(TaskCheckpointed { container_id: container.clone(), checkpoint: checkpoint.clone() })
        }
        Event::TaskDelete { container, process, pid, status, at } => wire!(TaskDelete {
            container_id: container.clone(),
            id: process.clone(),
            pid: *pid,
            exit_status: *status,
            exited_at: timestamp(*at),
        }),
        Event::Opaque { message, .. } => {
            Ok(Some(Any { type_url: message.type_url.clone(), value: message.value.clone(), ..Any::default() }))
        }
        _ => Ok(None),
    }
}

/// The event that a shim published under `topic`; one of a type that we do not know, or under a topic that is not its
/// type's, passes through as it is.
///
/// # Errors
/// [`Kind::InvalidArgument`] where the bytes are not what the type says.
pub fn from_event(topic: &str, any: &Any) -> Result<Event> {
    let known = known_event(any)?.filter(|event| event.topic() == topic);
    Ok(known.unwrap_or_else(|| {
        let message = TypedBytes { type_url: any.type_url.clone(), value: any.value.clone() };
        Event::Opaque { topic: topic.into(), message }
    }))
}

/// The event in a message that we know; `None` where we do not know its type.
fn known_event(any: &Any) -> Result<Option<Event>> {
    let name = crate::words::message_name(&any.type_url).strip_prefix("containerd.events.").unwrap_or_default();
    Ok(Some(match name {
        "SandboxExit" => {
            let event: events::SandboxExit = from_any(any)?;
            Event::SandboxExit { id: event.sandbox_id, status: event.exit_status, at: from_timestamp(&event.exited_at) }
        }
        "TaskCreate" => {
            let event: events::TaskCreate = from_any(any)?;
            let io = event.io.into_option().unwrap_or_default();
            let setup = TaskSetup {
                bundle: event.bundle,
                rootfs: event.rootfs.into_iter().map(from_mount).collect(),
                stdin: io.stdin,
                stdout: io.stdout,
                stderr: io.stderr,
                terminal: io.terminal,
                checkpoint: event.checkpoint,
            };
            Event::TaskCreate { container: event.container_id, pid: event.pid, setup: Box::new(setup) }
        }
        "TaskStart" => {
            let event: events::TaskStart = from_any(any)?;
            Event::TaskStart { container: event.container_id, pid: event.pid }
        }
        "TaskExecAdded" => {
            let event: events::TaskExecAdded = from_any(any)?;
            Event::TaskExecAdded { container: event.container_id, exec: event.exec_id }
        }
        "TaskExecStarted" => {
            let event: events::TaskExecStarted = from_any(any)?;
            Event::TaskExecStarted { container: event.container_id, exec: event.exec_id, pid: event.pid }
        }
        "TaskExit" => {
            let event: events::TaskExit = from_any(any)?;
            Event::TaskExit {
                container: event.container_id,
                process: event.id,
                pid: event.pid,
                status: event.exit_status,
                at: from_timestamp(&event.exited_at),
            }
        }
        "TaskOOM" => Event::TaskOom { container: from_any::<events::TaskOOM>(any)?.container_id },
        "TaskPaused" => Event::TaskPaused { container: from_any::<events::TaskPaused>(any)?.container_id },
        "TaskResumed" => Event::TaskResumed { container: from_any::<events::TaskResumed>(any)?.container_id },
        "TaskCheckpointed" => {
            let event: events::TaskCheckpointed = from_any(any)?;
            Event::TaskCheckpointed { container: event.container_id, checkpoint: event.checkpoint }
        }
        "TaskDelete" => {
            let event: events::TaskDelete = from_any(any)?;
            Event::TaskDelete {
                container: event.container_id,
                process: event.id,
                pid: event.pid,
                status: event.exit_status,
                at: from_timestamp(&event.exited_at),
            }
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_events_round_trip() {
        let at = Timestamp(1_700_000_000_123_456_789);
        for sent in [
            Event::TaskExit { container: "c".into(), process: "e".into(), pid: 7, status: 137, at },
            Event::TaskCreate {
                container: "c".into(),
                pid: 1,
                setup: Box::new(TaskSetup {
                    bundle: "/b".into(),
                    rootfs: vec![Mount { kind: "bind".into(), source: "/x".into(), ..Mount::default() }],
                    stdout: "/fifo".into(),
                    terminal: true,
                    ..TaskSetup::default()
                }),
            },
            Event::TaskCheckpointed { container: "c".into(), checkpoint: "/x".into() },
            Event::TaskOom { container: "c".into() },
            Event::TaskDelete { container: "c".into(), process: String::new(), pid: 1, status: 0, at },
            Event::SandboxExit { id: "s".into(), status: 137, at },
        ] {
            let any = event(&sent).unwrap().unwrap();
            assert_eq!(from_event(sent.topic(), &any).unwrap(), sent);
        }
        assert!(event(&Event::NamespaceDelete { name: "n".into() }).unwrap().is_none());
    }

    #[test]
    fn errors_keep_their_kind_over_the_wire() {
        for kind in (1..=16).map(Kind::from_code) {
            assert_eq!(from_error(error(&Error::new(kind, "x"))).kind(), kind);
        }
        assert!(matches!(error(&Error::not_found("x")), ttrpc::Error::RpcStatus(status) if status.code.value() == 5));
    }

    #[test]
    fn broken_events_are_refused_and_unknown_ones_pass_through() {
        let broken = Any { type_url: "containerd.events.TaskExit".into(), value: vec![0xff], ..Any::default() };
        assert_eq!(from_event("/tasks/exit", &broken).unwrap_err().kind(), Kind::InvalidArgument);
        let unknown = Any { type_url: "x.Y".into(), value: vec![1, 2], ..Any::default() };
        let passed = from_event("/x/y", &unknown).unwrap();
        assert_eq!(event(&passed).unwrap(), Some(unknown));
        assert_eq!(passed.topic(), "/x/y");
    }

    #[test]
    fn a_known_type_under_another_topic_is_no_known_event() {
        let exit = Event::TaskOom { container: "c".into() };
        let any = event(&exit).unwrap().unwrap();
        assert!(matches!(from_event("/my/topic", &any).unwrap(), Event::Opaque { .. }));
    }
}
