//! What the gate lets through, for every method and socket.

use tonic::Code;

use super::super::methods;
use super::*;

fn name(text: &str) -> Namespace {
    text.parse().expect("a name")
}

fn request(path: &str, namespaces: &[&'static str]) -> Request<()> {
    let mut request = Request::builder().uri(format!("http://x{path}"));
    for namespace in namespaces {
        request = request.header(NAMESPACE, *namespace);
    }
    request.body(()).expect("a request")
}

fn judge(access: &Access, path: &str, namespaces: &[&'static str]) -> Result<Request<()>, Code> {
    let mut request = request(path, namespaces);
    let gate = Gate::new(access.clone(), Limits::default());
    gate.judge(&mut request).map(|_| request).map_err(|refusal| refusal.code())
}

fn tenant_of(request: &Request<()>) -> Option<&str> {
    request.headers().get(NAMESPACE).map(|value| value.to_str().expect("ascii"))
}

#[test]
fn a_locked_socket_names_the_tenant_and_no_other() {
    let access = Access::locked(name("moby"), [name("plugins.moby")]);
    for (path, ..) in methods() {
        assert_eq!(tenant_of(&judge(&access, &path, &[]).expect(&path)), Some("moby"), "{path}");
        assert_eq!(tenant_of(&judge(&access, &path, &[""]).expect(&path)), Some("moby"), "{path}");
        assert_eq!(tenant_of(&judge(&access, &path, &["plugins.moby"]).expect(&path)), Some("plugins.moby"));
        assert_eq!(judge(&access, &path, &["k8s.io"]).expect_err(&path), Code::PermissionDenied);
        assert_eq!(judge(&access, &path, &["k8s.io", "moby"]).expect_err(&path), Code::PermissionDenied);
        assert_eq!(judge(&access, &path, &["../x"]).expect_err(&path), Code::InvalidArgument);
    }
}

#[test]
fn of_several_namespaces_only_the_first_is_left() {
    let open =
        [Access::full(), Access::guarded(name("k8s.io"), false), Access::locked(name("moby"), [name("plugins.moby")])];
    for access in open {
        for (path, ..) in methods() {
            let request = judge(&access, &path, &["moby", "plugins.moby", "k8s.io"]).expect(&path);
            let left: Vec<_> = request.headers().get_all(NAMESPACE).iter().collect();
            assert_eq!(left, ["moby"], "{path}");
        }
    }
}

#[test]
fn a_locked_socket_is_closed_for_methods_that_nobody_judged() {
    let access = Access::locked(name("moby"), []);
    for path in ["/runtime.v1.RuntimeService/ListContainers", "/containerd.services.new.v1.New/Get", "/x"] {
        assert_eq!(judge(&access, path, &[]).expect_err(path), Code::PermissionDenied);
        assert_eq!(judge(&access, path, &["moby"]).expect_err(path), Code::PermissionDenied);
    }
}

#[test]
fn a_guarded_namespace_can_be_looked_at_or_not_even_that() {
    for visible in [true, false] {
        let access = Access::guarded(name("k8s.io"), visible);
        for (path, named, writes) in methods() {
            judge(&access, &path, &["default"]).expect(&path);
            let judged = judge(&access, &path, &["k8s.io"]);
            // Those that are of no namespace look into the message themselves.
            assert_eq!(judged.is_ok(), !named || (visible && !writes), "{path} {visible}");
        }
        let new = "/containerd.services.new.v1.New/Get";
        assert_eq!(judge(&access, new, &["k8s.io"]).expect_err(new), Code::PermissionDenied);
        judge(&access, new, &["default"]).expect("somebody else's");
    }
}

#[test]
fn an_open_socket_leaves_requests_as_they_are() {
    for (path, ..) in methods() {
        assert_eq!(tenant_of(&judge(&Access::full(), &path, &["k8s.io"]).expect(&path)), Some("k8s.io"));
        assert_eq!(tenant_of(&judge(&Access::full(), &path, &[]).expect(&path)), None);
    }
}
