//! What events say, as JSON: containerd's messages by their names, and any other by its bytes.

use containerd_client::events as words;
use containerd_client::services::v1 as images;
use containerd_client::types::Mount;
use prost::{Message, Name};
use prost_types::{Any, Timestamp};
use serde_json::{Map, Value, json};

use crate::human;

/// A field as JSON.
trait Told {
    fn told(&self) -> Value;
}

impl Told for String {
    fn told(&self) -> Value {
        self.as_str().into()
    }
}

impl Told for u32 {
    fn told(&self) -> Value {
        (*self).into()
    }
}

impl Told for i64 {
    fn told(&self) -> Value {
        (*self).into()
    }
}

impl Told for Option<Timestamp> {
    fn told(&self) -> Value {
        human::moment(self.as_ref()).into()
    }
}

impl Told for std::collections::HashMap<String, String> {
    fn told(&self) -> Value {
        json!(self.iter().collect::<std::collections::BTreeMap<_, _>>())
    }
}

impl Told for Vec<Mount> {
    fn told(&self) -> Value {
        let one = |mount: &Mount| json!({ "type": mount.r#type, "source": mount.source, "options": mount.options });
        self.iter().map(one).collect()
    }
}

impl Told for Option<words::container_create::Runtime> {
    fn told(&self) -> Value {
        self.as_ref().map(|runtime| json!({ "name": runtime.name })).unwrap_or_default()
    }
}

impl Told for Option<words::TaskIo> {
    fn told(&self) -> Value {
        let one = |io: &words::TaskIo| json!({ "stdin": io.stdin, "stdout": io.stdout, "stderr": io.stderr, "terminal": io.terminal });
        self.as_ref().map(one).unwrap_or_default()
    }
}

/// The messages for sandboxes, which the crate of the others leaves out (`events/sandbox.proto`).
mod sandbox {
    use prost_types::Timestamp;

    /// A sandbox was made.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SandboxCreate {
        #[prost(string, tag = "1")]
        pub sandbox_id: String,
    }

    /// A sandbox booted.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SandboxStart {
        #[prost(string, tag = "1")]
        pub sandbox_id: String,
    }

    /// A sandbox ended.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SandboxExit {
        #[prost(string, tag = "1")]
        pub sandbox_id: String,
        #[prost(uint32, tag = "2")]
        pub exit_status: u32,
        #[prost(message, optional, tag = "3")]
        pub exited_at: Option<Timestamp>,
    }

    macro_rules! named {
        ($($name:ident)*) => {$(
            impl prost::Name for $name {
                const NAME: &'static str = stringify!($name);
                const PACKAGE: &'static str = "containerd.events";
            }
        )*};
    }
    named!(SandboxCreate SandboxStart SandboxExit);
}

/// Reads the message of one of these types, field by field.
macro_rules! table {
    ($any:expr, $($message:path { $($field:ident),* };)*) => {{
        let name = $any.type_url.rsplit('/').next().unwrap_or_default();
        $(
            if name == <$message>::full_name() {
                let message = <$message>::decode($any.value.as_slice()).ok();
                return message.map(|message| {
                    let mut told = Map::new();
                    $(told.insert(stringify!($field).into(), Told::told(&message.$field));)*
                    Value::Object(told)
                });
            }
        )*
        None
    }};
}

/// The message of an event.
pub(super) fn read(any: &Any) -> Value {
    known(any).unwrap_or_else(|| json!({ "type_url": any.type_url, "value": hex(&any.value) }))
}

fn known(any: &Any) -> Option<Value> {
    table! { any,
        words::NamespaceCreate { name, labels };
        words::NamespaceUpdate { name, labels };
        words::NamespaceDelete { name };
        words::ContentCreate { digest, size };
        words::ContentDelete { digest };
        images::ImageCreate { name, labels };
        images::ImageUpdate { name, labels };
        images::ImageDelete { name };
        words::SnapshotPrepare { key, parent, snapshotter };
        words::SnapshotCommit { key, name, snapshotter };
        words::SnapshotRemove { key, snapshotter };
        words::ContainerCreate { id, image, runtime };
        words::ContainerUpdate { id, image, labels, snapshot_key };
        words::ContainerDelete { id };
        words::TaskCreate { container_id, bundle, rootfs, io, checkpoint, pid };
        words::TaskStart { container_id, pid };
        words::TaskDelete { container_id, id, pid, exit_status, exited_at };
        words::TaskExit { container_id, id, pid, exit_status, exited_at };
        words::TaskOom { container_id };
        words::TaskExecAdded { container_id, exec_id };
        words::TaskExecStarted { container_id, exec_id, pid };
        words::TaskPaused { container_id };
        words::TaskResumed { container_id };
        words::TaskCheckpointed { container_id, checkpoint };
        sandbox::SandboxCreate { sandbox_id };
        sandbox::SandboxStart { sandbox_id };
        sandbox::SandboxExit { sandbox_id, exit_status, exited_at };
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use containerd_client::to_any;

    use super::*;

    #[test]
    fn known_messages_are_told_by_field() {
        let exit = words::TaskExit { container_id: "a".into(), pid: 7, exit_status: 3, ..Default::default() };
        let told = read(&to_any(&exit));
        assert_eq!(
            (&told["container_id"], &told["exit_status"], &told["exited_at"]),
            (&json!("a"), &json!(3), &json!(""))
        );
        let start = sandbox::SandboxStart { sandbox_id: "s".into() };
        assert_eq!(read(&to_any(&start)), json!({ "sandbox_id": "s" }));
    }

    #[test]
    fn others_are_told_by_their_bytes() {
        let any = Any { type_url: "a.b.C".into(), value: vec![1, 255] };
        assert_eq!(read(&any), json!({ "type_url": "a.b.C", "value": "01ff" }));
        let broken = Any { type_url: "containerd.events.TaskExit".into(), value: vec![255] };
        assert_eq!(read(&broken)["value"], "ff");
    }
}
