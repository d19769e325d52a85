//! A connection starts among the CRI's and goes where its calls belong.

use tonic::codegen::http::HeaderValue;

use super::*;

#[test]
fn a_clients_patience_is_read_as_grpc_writes_it() {
    let read = |text: &'static str| {
        patience(&HeaderMap::from_iter([("grpc-timeout".parse().expect("a name"), HeaderValue::from_static(text))]))
    };
    assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
    assert_eq!(read("3M"), Some(Duration::from_secs(180)));
    assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
    assert_eq!(read("250m"), Some(Duration::from_millis(250)));
    assert_eq!(read("7u"), Some(Duration::from_micros(7)));
    assert_eq!(read("9n"), Some(Duration::from_nanos(9)));
    for rubbish in ["", "S", "1", "-1S", "+1S", "123456789S", "1x", "1 S"] {
        assert_eq!(read(rubbish), None, "{rubbish:?}");
    }
    assert_eq!(patience(&HeaderMap::new()), None);
}

#[test]
fn a_call_is_worked_on_where_it_belongs() {
    let side = Side::default();
    side.calls("/runtime.v1.RuntimeService/Version");
    assert!(!side.is_tenants() && side.0.cri_calls.load(Ordering::Relaxed));
    side.calls("/containerd.services.version.v1.Version/Version");
    assert!(side.is_tenants() && !side.0.cri_calls.load(Ordering::Relaxed));
    // The connection stays with the tenants, the call does not.
    side.calls("/runtime.v1.RuntimeService/Version");
    assert!(side.is_tenants() && side.0.cri_calls.load(Ordering::Relaxed));
}
