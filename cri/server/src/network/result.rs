//! What the plugins of a network may answer to ADD (CNI specification 1.1.0, "ADD Success"), checked before anything is
//! made of it: a plugin is a program of somebody else's.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};
use windlass_model::{Error, Result};

use super::conf;

/// The most addresses, interfaces or routes that a result may have.
const MOST: usize = 1024;
/// The longest name of an interface that the kernel has, in bytes.
const LONGEST_NAME: usize = 15;

/// Refuses a result that does not make sense.
///
/// # Errors
/// [`windlass_model::Kind::Internal`], naming the field.
pub fn check(result: &Value) -> Result<()> {
    let result = result.as_object().ok_or_else(|| wrong("it", "is no object"))?;
    match result.get("cniVersion") {
        None => {}
        Some(Value::String(version)) if conf::is_spoken(version) => {}
        Some(other) => return Err(wrong("cniVersion", format!("{} is not spoken here", brief(other)))),
    }
    let interfaces = list(result, "interfaces")?;
    for (at, interface) in interfaces.iter().enumerate() {
        let field = format!("interfaces[{at}]");
        let interface = interface.as_object().ok_or_else(|| wrong(&field, "is no object"))?;
        let name = text(interface, &field, "name")?.unwrap_or_default();
        if name.is_empty()
            || name.len() > LONGEST_NAME
            || name.contains(|sign: char| sign == '/' || sign.is_whitespace())
        {
            return Err(wrong(&format!("{field}.name"), format!("{name:?} is no name of an interface")));
        }
        text(interface, &field, "sandbox")?;
        text(interface, &field, "mac")?;
    }
    for (at, ip) in list(result, "ips")?.iter().enumerate() {
        let field = format!("ips[{at}]");
        let ip = ip.as_object().ok_or_else(|| wrong(&field, "is no object"))?;
        let address = text(ip, &field, "address")?.unwrap_or_default();
        address
            .parse::<IpNet>()
            .map_err(|_| wrong(&format!("{field}.address"), format!("{address:?} is no network")))?;
        if let Some(gateway) = text(ip, &field, "gateway")?.filter(|gateway| !gateway.is_empty()) {
            let is_address = gateway.parse::<IpAddr>().is_ok();
            is_address.then_some(()).ok_or_else(|| wrong(&format!("{field}.gateway"), "is no address"))?;
        }
        let index = ip.get("interface").filter(|index| !index.is_null());
        let known = index.is_none_or(|index| index.as_u64().is_some_and(|index| index < interfaces.len() as u64));
        known.then_some(()).ok_or_else(|| wrong(&format!("{field}.interface"), "is not on the list"))?;
    }
    for (at, route) in list(result, "routes")?.iter().enumerate() {
        let field = format!("routes[{at}]");
        let route = route.as_object().ok_or_else(|| wrong(&field, "is no object"))?;
        let to = text(route, &field, "dst")?.unwrap_or_default();
        to.parse::<IpNet>().map_err(|_| wrong(&format!("{field}.dst"), format!("{to:?} is no network")))?;
    }
    Ok(())
}

/// A list; what is missing or null is empty.
fn list<'a>(object: &'a Map<String, Value>, field: &str) -> Result<&'a [Value]> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) if list.len() <= MOST => Ok(list),
        Some(Value::Array(list)) => Err(wrong(field, format!("has {} entries", list.len()))),
        Some(_) => Err(wrong(field, "is no list")),
    }
}

fn text<'a>(object: &'a Map<String, Value>, at: &str, field: &str) -> Result<Option<&'a str>> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(&format!("{at}.{field}"), "is no text")),
    }
}

fn wrong(field: &str, why: impl std::fmt::Display) -> Error {
    Error::internal(format!("the plugins' result is wrong: {field} {why}"))
}

/// The start of a value, fit for a message.
fn brief(value: &Value) -> String {
    value.to_string().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_plugins_answer_passes() {
        for result in [
            json!({}),
            json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": "aa:bb", "sandbox": "/n"}, {"name": "cni0"}],
                "ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 0}],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fe80::1"}], "dns": {}}),
            json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.0.0.5/24"}], "routes": null}),
        ] {
            check(&result).unwrap();
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        for (result, field) in [
            (json!([]), "it is no object"),
            (json!({"cniVersion": "9.9.9"}), "cniVersion"),
            (json!({"cniVersion": 1}), "cniVersion"),
            (json!({"ips": {}}), "ips is no list"),
            (json!({"ips": [3]}), "ips[0] is no object"),
            (json!({"ips": [{"address": "10.0.0.5"}]}), "ips[0].address"),
            (json!({"ips": [{"address": "10.0.0.500/24"}]}), "ips[0].address"),
            (
                json!({"ips": [{"address": "10.0.0.5/24", "interface": 1}], "interfaces": [{"name": "a"}]}),
                "ips[0].interface",
            ),
            (json!({"ips": [{"address": "10.0.0.5/24", "interface": -1}]}), "ips[0].interface"),
            (json!({"ips": [{"address": "10.0.0.5/24", "gateway": "x"}]}), "ips[0].gateway"),
            (json!({"interfaces": [{}]}), "interfaces[0].name"),
            (json!({"interfaces": [{"name": "../x"}]}), "interfaces[0].name"),
            (json!({"interfaces": [{"name": "a", "sandbox": 7}]}), "interfaces[0].sandbox"),
            (json!({"routes": [{"dst": "everywhere"}]}), "routes[0].dst"),
            (json!({"routes": vec![json!({"dst": "::/0"}); MOST + 1]}), "routes has"),
        ] {
            let error = check(&result).unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
