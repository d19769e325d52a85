//! `hosts.toml` directories, on disk.

use super::*;

fn certs(files: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let config = Config { config_path: Some(folder.path().to_owned()) };
    (folder, config)
}

fn urls(hosts: &[Host]) -> Vec<&str> {
    hosts.iter().map(|host| host.base.as_str()).collect()
}

#[test]
fn without_files_the_registry_itself_is_asked() {
    let hosts = |registry| hosts_for(&Config::default(), registry, false).unwrap();
    assert_eq!(urls(&hosts("docker.io")), ["https://registry-1.docker.io/v2"]);
    assert_eq!(hosts("docker.io")[0].namespace, None);
    assert_eq!(urls(&hosts("quay.io")), ["https://quay.io/v2"]);
    assert_eq!(urls(&hosts("10.0.0.1:5000")), ["https://10.0.0.1:5000/v2"]);
    assert_eq!(urls(&hosts("127.0.0.1:5000")), ["http://127.0.0.1:5000/v2", "https://127.0.0.1:5000/v2"]);
    assert_eq!(urls(&hosts("[::1]:5000")), ["http://[::1]:5000/v2", "https://[::1]:5000/v2"]);
    assert_eq!(urls(&hosts("localhost:80")), ["http://localhost/v2"]);
    assert_eq!(urls(&hosts("localhost")), ["https://localhost/v2", "http://localhost/v2"]);
    assert!(hosts("127.0.0.1:5000")[1].alternate);
}

#[test]
fn hosts_are_asked_in_the_order_of_the_file_and_the_server_last() {
    let (_folder, config) = certs(&[(
        "docker.io/hosts.toml",
        r#"
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
          capabilities = ["pull"]
        [host."http://a.example:5000/mirror"]
          capabilities = ["pull", "resolve"]
          [host."http://a.example:5000/mirror".header]
            x-key = ["one", "two"]
        [host."m.example/api/x"]
          override_path = true
        "#,
    )]);
    let hosts = hosts_for(&config, "docker.io", false).unwrap();
    assert_eq!(
        urls(&hosts),
        [
            "https://z.example/v2",
            "http://a.example:5000/mirror/v2",
            "https://m.example/api/x",
            "https://registry-1.docker.io/v2"
        ]
    );
    assert!(hosts[0].pull && !hosts[0].resolve && hosts[1].resolve);
    assert_eq!(hosts[1].headers.get_all("x-key").iter().count(), 2);
    assert!(!format!("{hosts:?}").contains("two"));
    let namespaces: Vec<_> = hosts.iter().map(|host| host.namespace.as_deref()).collect();
    assert_eq!(namespaces, [Some("docker.io"), Some("docker.io"), Some("docker.io"), None]);
    assert!(hosts[3].origin && !hosts[0].origin);
}

#[test]
fn a_missing_server_is_the_registry() {
    let (_folder, config) = certs(&[("_default/hosts.toml", "[host.\"https://m.example\"]\n")]);
    let hosts = hosts_for(&config, "x.example:8443", false).unwrap();
    assert_eq!(urls(&hosts), ["https://m.example/v2", "https://x.example:8443/v2"]);
}

#[test]
fn directories_are_looked_for_with_the_port_first() {
    let (folder, config) = certs(&[
        ("x.example_5000_/hosts.toml", "server = \"https://one\""),
        ("x.example:5000/hosts.toml", "server = \"https://two\""),
        ("_default/hosts.toml", "server = \"https://three\""),
    ]);
    let first = || urls(&hosts_for(&config, "x.example:5000", false).unwrap())[0].to_owned();
    assert_eq!(first(), "https://one/v2");
    // An edit counts at once.
    std::fs::remove_dir_all(folder.path().join("x.example_5000_")).unwrap();
    assert_eq!(first(), "https://two/v2");
    std::fs::remove_dir_all(folder.path().join("x.example:5000")).unwrap();
    assert_eq!(first(), "https://three/v2");
}

#[test]
fn certificates_come_in_all_their_forms() {
    let (folder, config) = certs(&[(
        "x.example/hosts.toml",
        r#"
        server = "https://x.example"
        ca = "ca.pem"
        [host."https://m.example"]
          ca = ["/abs/ca.pem", "b.pem"]
          client = [["c.pem", "c.key"], ["d.pem", ""]]
          skip_verify = true
          dial_timeout = "1m30s"
        [host."https://n.example"]
          client = ["both.pem"]
        "#,
    )]);
    let at = |name: &str| folder.path().join("x.example").join(name);
    let hosts = hosts_for(&config, "x.example", false).unwrap();
    assert_eq!(hosts[0].tls.authorities, [PathBuf::from("/abs/ca.pem"), at("b.pem")]);
    assert_eq!(hosts[0].tls.client, [(at("c.pem"), Some(at("c.key"))), (at("d.pem"), None)]);
    assert_eq!(hosts[0].tls.skip_verify, Some(true));
    assert_eq!(hosts[0].dial_timeout, Some(Duration::from_secs(90)));
    assert_eq!(hosts[1].tls.client, [(at("both.pem"), None)]);
    assert_eq!(hosts[2].tls.authorities, [at("ca.pem")]);
}

#[test]
fn a_directory_of_certificates_is_read_as_docker_does() {
    let (folder, config) = certs(&[
        ("x.example/ca.crt", ""),
        ("x.example/me.cert", ""),
        ("x.example/me.key", ""),
        ("x.example/z.cert", ""),
    ]);
    let at = |name: &str| folder.path().join("x.example").join(name);
    let hosts = hosts_for(&config, "x.example", false).unwrap();
    assert_eq!(hosts[0].tls.authorities, [at("ca.crt")]);
    assert_eq!(hosts[0].tls.client, [(at("me.cert"), Some(at("me.key"))), (at("z.cert"), None)]);
}

#[test]
fn a_wrong_file_fails_the_pull_and_names_itself() {
    for bad in [
        "server = ",
        "server = 1",
        "host = 1",
        "[host.\"ftp://x\"]",
        "[host.\"https://u:p@x\"]",
        "[host.\"https://x\"]\ncapabilities = [\"fly\"]",
        "[host.\"https://x\"]\nca = 1",
        "dial_timeout = \"soon\"",
    ] {
        let (_folder, config) = certs(&[("x.example/hosts.toml", bad)]);
        let error = hosts_for(&config, "x.example", false).unwrap_err();
        assert!(error.to_string().contains("hosts.toml"), "{bad}: {error}");
        assert_eq!(error.kind(), windlass_model::Kind::InvalidArgument, "{bad}");
    }
}

#[test]
fn a_host_takes_pushes_if_it_says_so_or_says_nothing() {
    let text = "server = \"https://s.example\"\n[host.\"https://a.example\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
        [host.\"https://b.example\"]\ncapabilities = [\"push\"]\n[host.\"https://c.example\"]\n";
    let hosts = parse(text, Path::new("/"), "x.example").unwrap();
    let pushes: Vec<(bool, bool)> = hosts.iter().map(|host| (host.push, host.pull)).collect();
    assert_eq!(pushes, [(false, true), (true, false), (true, true), (true, true)]);
}
