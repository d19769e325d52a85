//! Filters as containerd's clients write them, and broken ones.

use super::*;

fn matches(filters: &[&str], fields: &[(&str, &str)]) -> bool {
    let filter = Filter::parse(filters).unwrap_or_else(|error| panic!("{filters:?}: {error}"));
    filter.matches(|path| {
        let name = path.join(".");
        fields.iter().find(|(known, _)| *known == name).map(|(_, value)| Cow::Borrowed(*value))
    })
}

const IMAGE: &[(&str, &str)] = &[
    ("name", "docker.io/library/busybox:1.36"),
    ("labels.foo", "bar"),
    ("labels.very complex label", "some,thing"),
    ("labels.containerd.io/gc.root", "now"),
];

#[test]
fn clients_filters_select() {
    for (filters, wanted) in [
        (&[][..], true),
        (&[""], true),
        (&["name"], true),
        (&["size"], false),
        (&["name==docker.io/library/busybox:1.36"], true),
        (&["name == docker.io/library/busybox:1.36 , labels.foo"], true),
        (&["name==busybox"], false),
        (&["labels.foo==bar,name==busybox"], false),
        (&["labels.foo==bar", "name==busybox"], true),
        (&["name==busybox", ""], true),
        (&["labels.\"very complex label\"==\"some,thing\""], true),
        (&["labels.\"containerd.io/gc.root\""], true),
        (&["labels.\"containerd.io\\u002fgc.root\"==now"], true),
        (&["labels.foo!=bar"], false),
        (&["labels.foo!=baz"], true),
        (&["labels.none!=baz"], true),
        (&["labels.none==baz"], false),
        (&["name~=busybox"], true),
        (&["name~=^busybox"], false),
        (&["name~=|^docker.io/.*:1\\\\.3|"], true),
        (&["name~=\"^docker\\\\.io\""], true),
        (&["labels.none~=^$"], true),
        (&["labels.\"\\x66\\157o\"==bar"], true),
    ] {
        assert_eq!(matches(filters, IMAGE), wanted, "{filters:?}");
    }
}

#[test]
fn dockerds_subscription_selects_its_tasks() {
    let filter = ["namespace==moby,topic~=|^/tasks/|"];
    assert!(matches(&filter, &[("namespace", "moby"), ("topic", "/tasks/exit")]));
    assert!(!matches(&filter, &[("namespace", "k8s.io"), ("topic", "/tasks/exit")]));
    assert!(!matches(&filter, &[("namespace", "moby"), ("topic", "/containers/create")]));
}

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    for broken in [
        ",",
        "name,",
        "=",
        "name=",
        "name=x",
        "name===x",
        "name==",
        "name~~x",
        "name==\"x",
        "name==/x/",
        "name==|x|",
        ".",
        "name.",
        "name..x",
        "/name/==x",
        "näme==x",
        "name==x y",
        "name~=[",
        "name~=/a\\d/",
        "name==\"\\q\"",
        "name==\"\\xg0\"",
        "name==\"\\xff\"",
        "name==\"\\777\"",
        "name==\"\\ud800\"",
        "name==\"a\nb\"",
        "name~=(a{1000}){1000}",
    ] {
        let error = Filter::parse(&[broken]).err().unwrap_or_else(|| panic!("{broken:?} was taken"));
        assert_eq!(error.kind(), Kind::InvalidArgument, "{broken:?}");
        assert!(error.to_string().starts_with("filter"), "{error}");
    }
    assert!(Filter::parse(&["x".repeat(LONGEST + 1)]).is_err());
}

#[test]
fn labels_are_found_by_the_rest_of_a_path() {
    let labels = Labels::from([("a.b/c".to_owned(), "1".to_owned())]);
    let path = ["labels", "a", "b/c"].map(str::to_owned);
    assert_eq!(label(&labels, &path[1..]).as_deref(), Some("1"));
    assert_eq!(label(&labels, &path[2..]), None);
}
