//! The traffic limits that a pod's annotations ask for, as the `bandwidth` capability of CNI has them.
//!
//! `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth` are Kubernetes quantities in bits per second,
//! from `1k` to `1P` as the API server's own check has it.

use serde_json::{Map, Value};
use windlass_model::{Error, Result};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// The largest burst, in bits: the plugin's own limit, which is as good as none.
const BURST: u32 = u32::MAX;

/// The limits of a pod, `None` without any.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`], naming the annotation.
pub fn limits<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Value>> {
    let mut limits = Map::new();
    for (name, rate, burst) in [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")] {
        let Some(text) = annotation(name) else { continue };
        let bits = quantity(text).filter(|bits| (1e3..=1e15).contains(bits)).ok_or_else(|| {
            Error::invalid(format!("annotations[{name:?}]: {text:?} is not a quantity of bits from 1k to 1P"))
        })?;
        limits.insert(rate.into(), (bits.ceil() as u64).into());
        limits.insert(burst.into(), BURST.into());
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// A Kubernetes quantity: a decimal number with an optional suffix.
fn quantity(text: &str) -> Option<f64> {
    let end = text.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let scale = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse::<i8>().ok()?.into()),
    };
    number.parse::<f64>().ok().map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_read() {
        let both = limits(|name| if name == INGRESS { Some("10M") } else { Some("1.5Ki") }).unwrap().unwrap();
        assert_eq!(both["ingressRate"], 10_000_000);
        assert_eq!(both["egressRate"], 1536);
        assert_eq!(both["egressBurst"], u32::MAX);
        assert_eq!(limits(|_| None).unwrap(), None);
        let one = limits(|name| (name == EGRESS).then_some("1e6")).unwrap().unwrap();
        assert_eq!(one["egressRate"], 1_000_000);
        assert!(one.get("ingressRate").is_none());
    }

    #[test]
    fn wrong_quantities_are_refused() {
        for bad in ["", "x", "10", "2P", "-5M", "1MB", "5.5.5M", "NaN"] {
            let error = limits(|name| (name == INGRESS).then_some(bad)).unwrap_err();
            assert!(error.to_string().contains("ingress-bandwidth"), "{bad}");
        }
    }
}
