//! Applies what a device of the Container Device Interface changes to an OCI specification.

use std::path::Path;

use serde_json::{Map, Value, json};
use windlass_model::{Context as _, Error, Result};

use super::file::{Edits, Node};
use crate::container::spec::device;

/// Applies `edits` of the device `name` to `spec`.
///
/// # Errors
/// What the kernel says of a device node; [`windlass_model::Kind::InvalidArgument`] where `spec` is no specification.
pub(super) fn apply(spec: &mut Value, edits: &Edits, name: &str) -> Result<()> {
    process(spec, "/process", &edits.env, &edits.additional_gids)?;
    for node in &edits.device_nodes {
        add_node(spec, node).context(|| format!("CDI device {name}"))?;
    }
    for device in &edits.net_devices {
        object(spec, "/linux", "netDevices")?.insert(device.host_interface_name.clone(), json!({"name": device.name}));
    }
    if let Some(classes) = &edits.intel_rdt {
        object(spec, "/linux", "intelRdt")?.extend(classes.clone());
    }
    for hook in &edits.hooks {
        let mut call = json!({"path": hook.path});
        for (field, value) in [("args", json!(hook.args)), ("env", json!(hook.env)), ("timeout", json!(hook.timeout))] {
            if !value.is_null() && value != json!([]) {
                call[field] = value;
            }
        }
        object(spec, "", "hooks")?;
        list(spec, "/hooks", &hook.hook_name)?.push(call);
    }
    let mounts = list(spec, "", "mounts")?;
    for mount in &edits.mounts {
        mounts.retain(|known| known["destination"] != mount.container_path.as_str());
        let kind = if mount.kind.is_empty() { "bind" } else { &mount.kind };
        let options = if mount.options.is_empty() { vec!["rbind".to_owned()] } else { mount.options.clone() };
        mounts.push(
            json!({"destination": mount.container_path, "type": kind, "source": mount.host_path, "options": options}),
        );
    }
    if !edits.mounts.is_empty() {
        // None may hide one that is inside it; those of one depth keep their order.
        mounts.sort_by_key(|mount| Path::new(mount["destination"].as_str().unwrap_or_default()).components().count());
    }
    Ok(())
}

/// Adds variables and groups to the process at `pointer`.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] where there is none.
pub(super) fn process(spec: &mut Value, pointer: &str, env: &[String], groups: &[u32]) -> Result<()> {
    for variable in env {
        set_variable(list(spec, pointer, "env")?, variable);
    }
    for gid in groups.iter().filter(|gid| **gid != 0) {
        let known = list(spec, &format!("{pointer}/user"), "additionalGids")?;
        if !known.contains(&json!(gid)) {
            known.push(json!(gid));
        }
    }
    Ok(())
}

fn add_node(spec: &mut Value, node: &Node) -> Result<()> {
    let source = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let (mut kind, mut major, mut minor, mut mode) = (node.kind.clone(), node.major, node.minor, node.file_mode);
    if kind.is_empty() || (kind != "p" && (major, minor) == (0, 0)) {
        let found = device(Path::new(source))?;
        let found = serde_json::to_value(&found).unwrap_or_default();
        kind = found["type"].as_str().unwrap_or_default().to_owned();
        major = found["major"].as_i64().unwrap_or_default();
        minor = found["minor"].as_i64().unwrap_or_default();
        mode = mode.or_else(|| found["fileMode"].as_u64().and_then(|mode| u32::try_from(mode).ok()));
    }
    let user = |field: &str| spec.pointer("/process/user").map_or(0, |user| user[field].as_u64().unwrap_or_default());
    let mut made = json!({"path": node.path, "type": kind, "major": major, "minor": minor,
        "uid": node.uid.map_or_else(|| user("uid"), u64::from), "gid": node.gid.map_or_else(|| user("gid"), u64::from)});
    if let Some(mode) = mode {
        made["fileMode"] = mode.into();
    }
    let devices = list(spec, "/linux", "devices")?;
    devices.retain(|known| known["path"] != node.path.as_str());
    devices.push(made);
    if kind == "b" || kind == "c" {
        let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        object(spec, "/linux", "resources")?;
        list(spec, "/linux/resources", "devices")?
            .push(json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access}));
    }
    Ok(())
}

/// Sets a variable in the place of the one of its name, or after all others.
fn set_variable(variables: &mut Vec<Value>, variable: &str) {
    let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    let wanted = name(variable);
    match variables.iter_mut().find(|known| known.as_str().map(name).as_ref() == Some(&wanted)) {
        Some(known) => *known = variable.into(),
        None => variables.push(variable.into()),
    }
}

/// The list `field` of the object at `pointer`, made where it is missing.
fn list<'a>(spec: &'a mut Value, pointer: &str, field: &str) -> Result<&'a mut Vec<Value>> {
    let value = entry(spec, pointer, field)?;
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or_else(|| Error::invalid(format!("{pointer}/{field} of a specification is no list")))
}

/// The object `field` of the object at `pointer`, made where it is missing.
fn object<'a>(spec: &'a mut Value, pointer: &str, field: &str) -> Result<&'a mut Map<String, Value>> {
    let value = entry(spec, pointer, field)?;
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or_else(|| Error::invalid(format!("{pointer}/{field} of a specification is no object")))
}

fn entry<'a>(spec: &'a mut Value, pointer: &str, field: &str) -> Result<&'a mut Value> {
    let parent = spec.pointer_mut(pointer).and_then(Value::as_object_mut);
    let parent = parent.ok_or_else(|| Error::invalid(format!("a specification without {pointer}")))?;
    Ok(parent.entry(field).or_insert(Value::Null))
}
