//! What is read, what it means, and what is refused by which key.

use super::*;

fn refused(text: &str) -> String {
    match Raw::parse(text).and_then(Raw::check) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn the_printed_default_is_the_default() {
    let default = Raw { address: Some("/run/windlass/windlass.sock".into()), ..Raw::default() };
    assert_eq!(Raw::parse(DEFAULT_TEXT).unwrap(), default);
    default.check().unwrap();
}

#[test]
fn a_dump_is_read_back() {
    let raw = Raw::load(Some(Path::new("/dev/null")), Overrides { state: Some("/x".into()), ..Overrides::default() })
        .unwrap();
    assert_eq!(Raw::parse(&raw.dump().unwrap()).unwrap(), raw);
    assert_eq!(raw.check().unwrap().events_address, Path::new("/x/windlass.sock.ttrpc"));
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let error = refused("version = 1\n\n[cri.cni]\nconf_dirs = \"/x\"\n");
    assert!(error.contains("line 4"), "{error}");
    assert!(error.contains("conf_dirs"), "{error}");
    assert!(refused("[cri.runtimes.x]\nbin = \"/x\"").contains("line 2"));
    assert!(refused("rooot = \"/x\"").contains("line 1"));
}

#[test]
fn a_tenant_without_users_is_for_root() {
    let text = "[[tenant]]\nnamespace = \"moby\"\nalso = [\"plugins.moby\"]\nsocket = \"/run/moby.sock\"";
    let config = Raw::parse(text).unwrap().check().unwrap();
    let tenant = Tenant {
        namespace: "moby".parse().unwrap(),
        also: vec!["plugins.moby".parse().unwrap()],
        socket: "/run/moby.sock".into(),
        uids: vec![0],
        gids: Vec::new(),
    };
    assert_eq!(config.tenants, [tenant]);
    let config = Raw::parse(&format!("{text}\ngids = [7]")).unwrap().check().unwrap();
    assert_eq!((config.tenants[0].uids.len(), config.tenants[0].gids.len()), (0, 1));
}

#[test]
fn wrong_values_are_refused_by_their_key() {
    for (text, key) in [
        ("version = 2", "version"),
        ("root = \"relative\"", "root"),
        ("root = \"/a\"\nstate = \"/a\"", "root"),
        ("[cri]\nsnapshotter = \"zfs\"", "cri.snapshotter"),
        ("[cri]\ncgroup_driver = \"both\"", "line 2"),
        ("[cri]\nnamespace = \"a/b\"", "cri.namespace"),
        ("[cri]\ndefault_runtime = \"kata\"", "cri.runtimes.kata"),
        ("[cri.runtimes.windlass]\nbinary = \"/a\"\nshim = \"b\"", "cri.runtimes.windlass"),
        ("[cri]\nmax_container_log_line_size = 0", "cri.max_container_log_line_size"),
        ("[cri]\nmax_container_log_line_size = -1", "line 2"),
        ("[cri.cni]\nconf_template = \"here\"", "cri.cni.conf_template"),
        ("[cri.streaming]\naddress = \"here\"", "cri.streaming.address"),
        ("[cri.streaming]\nidle_timeout = 0", "cri.streaming.idle_timeout"),
        ("[cri.streaming]\ntls = \"on\"", "line 2"),
        ("[cri.streaming]\ntls = \"files\"\ncert = \"/a\"", "cri.streaming.key"),
        ("[cri.streaming]\ncert = \"/a\"", "cri.streaming.cert"),
        ("[cri.nri]\nsocket = \"nri.sock\"", "cri.nri.socket"),
        ("[cri.nri]\nrequest_timeout_ms = 0", "cri.nri.request_timeout_ms"),
        ("[metrics]\naddress = \":1338\"", "metrics.address"),
        ("[[tenant]]\nnamespace = \"moby\"\nsocket = \"a\"", "[[tenant]] moby: socket"),
        ("[[tenant]]\nnamespace = \"a b\"\nsocket = \"/a\"", "[[tenant]] a b: namespace"),
        ("[[tenant]]\nnamespace = \"k8s.io\"\nsocket = \"/a\"", "the CRI's"),
        ("[[tenant]]\nnamespace = \"moby\"\nalso = [\"k8s.io\"]\nsocket = \"/a\"", "the CRI's"),
        ("[[tenant]]\nnamespace = \"moby\"", "line 1"),
        (
            "[[tenant]]\nnamespace = \"a\"\nsocket = \"/a\"\n[[tenant]]\nnamespace = \"b\"\nsocket = \"/a\"",
            "[[tenant]] b: socket",
        ),
        ("[cri]\nmain_socket = \"open\"", "line 2"),
        ("[cri]\nshare_images = [\"k8s.io\"]", "cri.share_images"),
        ("[cri]\nshare_images = [\"a b\"]", "cri.share_images"),
        ("[image_verifier]\nmax_verifiers = 0", "max_verifiers"),
        ("[image_verifier]\nbin_dir = \"relative\"", "image_verifier.bin_dir"),
    ] {
        let error = refused(text);
        assert!(error.contains(key), "{text:?}: {error}");
    }
    assert!(refused(&format!("address = \"/{}\"", "x".repeat(101))).contains("address"));
}
