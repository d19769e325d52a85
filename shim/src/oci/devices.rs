//! The devices that a container of the built-in runtime may use with cgroups of version 2.
//!
//! libcontainer restricts them with version 1 only, unless it is linked with a library in C.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde_json::Value;
use windlass_model::{Error, Kind, Result};
use windlass_sys::cgroup::{DeviceRule, Layout};

/// What every container may use, whatever its rules say: making nodes, which is not using them, and the devices that the
/// runtime puts into each `/dev` (null, zero, full, tty, random, urandom, console, ptmx and terminals).
const ALWAYS: [(char, Option<u32>, Option<u32>, &str); 11] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(1), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// Restricts `cgroup` to the devices of `resources`, in the OCI specification's words. Nothing happens with version 1, and
/// where there are no rules.
///
/// # Errors
/// [`Kind::InvalidArgument`] where they are none; otherwise where the kernel refuses.
pub fn restrict(layout: &Layout, cgroup: &str, resources: &Value) -> Result<()> {
    let Some(listed) = resources.get("devices").filter(|_| layout.is_v2()) else { return Ok(()) };
    let listed: Option<Vec<LinuxDeviceCgroup>> = serde_json::from_value(listed.clone())
        .map_err(|error| Error::with_source(Kind::InvalidArgument, "device rules of a container", error))?;
    let mut rules: Vec<_> = listed.unwrap_or_default().iter().map(rule).collect();
    let open = rules.last().is_some_and(|rule| rule.allow && rule.kind == 'a');
    if rules.is_empty() {
        return Ok(());
    }
    if !open {
        rules.extend(ALWAYS.map(|(kind, major, minor, access)| DeviceRule::allow(kind, major, minor, access)));
    }
    layout.restrict_devices(cgroup, &rules)
}

fn rule(listed: &LinuxDeviceCgroup) -> DeviceRule {
    // Negative numbers are the specification's other word for any.
    let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    DeviceRule {
        allow: listed.allow(),
        kind: match listed.typ() {
            Some(LinuxDeviceType::B) => 'b',
            Some(LinuxDeviceType::C) => 'c',
            Some(LinuxDeviceType::U) => 'u',
            _ => 'a',
        },
        major: number(listed.major()),
        minor: number(listed.minor()),
        access: listed.access().clone().unwrap_or_else(|| "rwm".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_the_specification_has_them() {
        let listed = |text: &str| rule(&serde_json::from_str(text).unwrap());
        let everything = listed(r#"{"allow": false, "access": "rwm"}"#);
        assert_eq!(everything, DeviceRule { allow: false, ..DeviceRule::allow('a', None, None, "rwm") });
        let fuse = listed(r#"{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}"#);
        assert_eq!(fuse, DeviceRule::allow('c', Some(10), Some(229), "rw"));
        let any = listed(r#"{"allow": true, "type": "b", "major": 8, "minor": -1}"#);
        assert_eq!(any, DeviceRule::allow('b', Some(8), None, "rwm"));
    }
}
