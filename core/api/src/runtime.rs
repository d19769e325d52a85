//! Which runtime a client asks for, and what it tells it: on the container's record once, and again with each task.
//!
//! Docker and ctr speak of runc in three messages. Those of the first shim (`containerd.linux.runc.*`) are put into the
//! words of the second (`containerd.runc.v1.Options`); what is neither is the runtime's own and goes to it as it is.

use prost::Message;
use prost_types::Any;
use windlass_engine::tasks::TaskRuntime;
use windlass_engine::{ContainerRecord, TypedBytes};
use windlass_model::{Error, Kind, Result};

/// The type of [`Options`].
const OPTIONS: &str = "containerd.runc.v1.Options";
/// The type of [`RuncOptions`], on records.
const RUNC_OPTIONS: &str = "containerd.linux.runc.RuncOptions";
/// The type of [`CreateOptions`], with tasks.
const CREATE_OPTIONS: &str = "containerd.linux.runc.CreateOptions";

/// What the second shim is told of runc.
#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(bool, tag = "1")]
    no_pivot_root: bool,
    #[prost(bool, tag = "2")]
    no_new_keyring: bool,
    #[prost(string, tag = "3")]
    shim_cgroup: String,
    #[prost(uint32, tag = "4")]
    io_uid: u32,
    #[prost(uint32, tag = "5")]
    io_gid: u32,
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(string, tag = "7")]
    root: String,
    #[prost(bool, tag = "9")]
    systemd_cgroup: bool,
    #[prost(string, tag = "10")]
    criu_image_path: String,
    #[prost(string, tag = "11")]
    criu_work_path: String,
}

/// What a record told the first shim.
#[derive(Clone, PartialEq, Message)]
struct RuncOptions {
    #[prost(string, tag = "1")]
    runtime: String,
    #[prost(string, tag = "2")]
    runtime_root: String,
    #[prost(bool, tag = "4")]
    systemd_cgroup: bool,
}

/// What a task told the first shim.
#[derive(Clone, PartialEq, Message)]
struct CreateOptions {
    #[prost(bool, tag = "1")]
    no_pivot_root: bool,
    #[prost(bool, tag = "8")]
    no_new_keyring: bool,
    #[prost(string, tag = "9")]
    shim_cgroup: String,
    #[prost(uint32, tag = "10")]
    io_uid: u32,
    #[prost(uint32, tag = "11")]
    io_gid: u32,
}

/// The runtime of a task of `record`: `path`, where it is not empty, goes before the record's, and so do `options`.
///
/// # Errors
/// [`Kind::InvalidArgument`] where options are not what their type says.
pub(crate) fn of(record: &ContainerRecord, path: &str, options: Option<Any>) -> Result<TaskRuntime> {
    let shim = if path.is_empty() { record.runtime.name.clone() } else { path.to_owned() };
    let given = options.map(|any| TypedBytes { type_url: any.type_url, value: any.value });
    let given = given.filter(|given| !given.type_url.is_empty());
    let options = merge(record.runtime.options.as_ref(), given)?;
    Ok(TaskRuntime { shim: Some(shim), options, ..TaskRuntime::default() })
}

/// The runtime of a task that nobody says more about than its record does.
///
/// # Errors
/// [`Kind::InvalidArgument`] where options are not what their type says.
pub fn of_record(record: &ContainerRecord) -> Result<TaskRuntime> {
    of(record, "", None)
}

fn merge(kept: Option<&TypedBytes>, given: Option<TypedBytes>) -> Result<Option<TypedBytes>> {
    let kept_kind = kept.map(|kept| name(&kept.type_url));
    let mut options = match (kept, kept_kind) {
        (Some(kept), Some(RUNC_OPTIONS)) => {
            let old: RuncOptions = decode(kept)?;
            Options {
                binary_name: old.runtime,
                root: old.runtime_root,
                systemd_cgroup: old.systemd_cgroup,
                ..Options::default()
            }
        }
        (Some(kept), Some(OPTIONS)) => decode(kept)?,
        _ => Options::default(),
    };
    match given {
        Some(given) if name(&given.type_url) == CREATE_OPTIONS => {
            let CreateOptions { no_pivot_root, no_new_keyring, shim_cgroup, io_uid, io_gid } = decode(&given)?;
            options = Options { no_pivot_root, no_new_keyring, shim_cgroup, io_uid, io_gid, ..options };
            Ok(Some(encode(&options)))
        }
        Some(given) => Ok(Some(given)),
        None if kept_kind == Some(RUNC_OPTIONS) => Ok(Some(encode(&options))),
        None => Ok(kept.cloned()),
    }
}

fn name(type_url: &str) -> &str {
    type_url.strip_prefix("type.googleapis.com/").unwrap_or(type_url)
}

fn decode<M: Message + Default>(bytes: &TypedBytes) -> Result<M> {
    let refuse = |error| Error::with_source(Kind::InvalidArgument, format!("decode {}", bytes.type_url), error);
    M::decode(bytes.value.as_slice()).map_err(refuse)
}

fn encode(options: &Options) -> TypedBytes {
    TypedBytes { type_url: OPTIONS.into(), value: options.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(type_url: &str, message: &impl Message) -> TypedBytes {
        TypedBytes { type_url: type_url.into(), value: message.encode_to_vec() }
    }

    fn told(merged: Option<TypedBytes>) -> Options {
        let merged = merged.expect("options");
        assert_eq!(merged.type_url, OPTIONS);
        decode(&merged).expect("options")
    }

    #[test]
    fn a_tasks_options_go_before_its_records() {
        let record = typed(OPTIONS, &Options { binary_name: "a".into(), ..Options::default() });
        let task = typed(OPTIONS, &Options { io_uid: 7, ..Options::default() });
        assert_eq!(told(merge(Some(&record), None).expect("kept")).binary_name, "a");
        let both = told(merge(Some(&record), Some(task)).expect("given"));
        assert_eq!((both.io_uid, both.binary_name.as_str()), (7, ""));
        assert_eq!(merge(None, None).expect("nothing"), None);
    }

    #[test]
    fn the_words_of_the_first_shim_become_the_seconds() {
        let record = RuncOptions { runtime: "/r".into(), runtime_root: "/s".into(), systemd_cgroup: true };
        let record = typed(RUNC_OPTIONS, &record);
        let create = typed(CREATE_OPTIONS, &CreateOptions { io_uid: 5, no_pivot_root: true, ..Default::default() });
        let alone = told(merge(Some(&record), None).expect("kept"));
        assert_eq!((alone.binary_name.as_str(), alone.root.as_str(), alone.systemd_cgroup), ("/r", "/s", true));
        let both = told(merge(Some(&record), Some(create)).expect("both"));
        assert_eq!((both.io_uid, both.no_pivot_root, both.binary_name.as_str()), (5, true, "/r"));
    }

    #[test]
    fn what_is_anothers_goes_to_it_as_it_is_and_rubbish_is_refused() {
        let other = TypedBytes { type_url: "runtimeoptions.v1.Options".into(), value: vec![0xff] };
        assert_eq!(merge(Some(&other), None).expect("kept"), Some(other));
        let broken = TypedBytes { type_url: RUNC_OPTIONS.into(), value: vec![0xff] };
        assert_eq!(merge(Some(&broken), None).expect_err("broken").kind(), Kind::InvalidArgument);
    }
}
