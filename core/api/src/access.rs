//! What a socket is open for: which namespaces a client there may name, see and change.
//!
//! The layer of [`gate`] stands in front of all services and judges each request by its method and its namespace; methods
//! that it does not know ([`table`]) are open only where nothing is closed. Services that are not of one namespace ask the
//! request for its [`Access`] themselves.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use tonic::{Request, Status};
use windlass_model::Namespace;

mod gate;
mod limits;
mod table;

pub use gate::Gate;
pub use limits::Limits;
pub use table::methods;

/// What a socket is open for; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Access(Arc<Scope>);

#[derive(Debug, Default)]
enum Scope {
    /// Everything.
    #[default]
    Full,
    /// Everything, but one namespace may only be looked at, or not even that.
    Guarded { namespace: Namespace, visible: bool },
    /// Some namespaces and nothing else. The first is meant where a request names none.
    Locked { own: Namespace, all: BTreeSet<Namespace> },
}

impl Access {
    /// Open for everything.
    pub fn full() -> Self {
        Self::default()
    }

    /// Open for everything, but `namespace` cannot be changed and, unless `visible`, not be seen.
    pub fn guarded(namespace: Namespace, visible: bool) -> Self {
        Self(Arc::new(Scope::Guarded { namespace, visible }))
    }

    /// Open for `own` and `also` only; a request that names no namespace means `own`.
    pub fn locked(own: Namespace, also: impl IntoIterator<Item = Namespace>) -> Self {
        let all = also.into_iter().chain([own.clone()]).collect();
        Self(Arc::new(Scope::Locked { own, all }))
    }

    /// What the socket that a request came through is open for.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// True where `namespace` can be seen.
    pub(crate) fn sees(&self, namespace: &Namespace) -> bool {
        match &*self.0 {
            Scope::Full => true,
            Scope::Guarded { namespace: guarded, visible } => *visible || namespace != guarded,
            Scope::Locked { all, .. } => all.contains(namespace),
        }
    }

    /// Refuses where `namespace` cannot be changed.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(crate) fn change(&self, namespace: &Namespace) -> Result<(), Status> {
        match &*self.0 {
            Scope::Guarded { namespace: guarded, visible: true } if namespace == guarded => {
                Err(Status::permission_denied(format!("namespace {namespace} is read-only on this socket")))
            }
            _ if self.sees(namespace) => Ok(()),
            _ => Err(closed(namespace)),
        }
    }

    /// The only namespaces that it is open for; `None` where that cannot be said in such a way.
    pub(crate) fn only(&self) -> Option<BTreeSet<Namespace>> {
        match &*self.0 {
            Scope::Locked { all, .. } => Some(all.clone()),
            _ => None,
        }
    }

    /// True where nothing of another namespace may be had, not even a blob that both could know.
    pub(crate) fn isolates(&self) -> bool {
        matches!(&*self.0, Scope::Locked { .. })
    }

    fn own(&self) -> Option<&Namespace> {
        match &*self.0 {
            Scope::Locked { own, .. } => Some(own),
            _ => None,
        }
    }
}

/// The refusal of a namespace that the socket is not open for, whether or not it exists.
fn closed(namespace: &Namespace) -> Status {
    Status::permission_denied(format!("this socket is not open for namespace {namespace}"))
}

impl fmt::Display for Access {
    /// A form that can be compared.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Scope::Full | Scope::Guarded { .. } => f.write_str("main"),
            Scope::Locked { all, .. } => all.iter().try_for_each(|name| write!(f, "{name} ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Namespace {
        text.parse().expect("a name")
    }

    #[test]
    fn a_locked_socket_is_open_for_its_own_only() {
        let access = Access::locked(name("moby"), [name("plugins.moby")]);
        for own in ["moby", "plugins.moby"] {
            assert!(access.sees(&name(own)) && access.change(&name(own)).is_ok(), "{own}");
        }
        assert!(!access.sees(&name("k8s.io")));
        assert_eq!(access.change(&name("k8s.io")).expect_err("closed").code(), tonic::Code::PermissionDenied);
        assert!(access.isolates());
    }

    #[test]
    fn a_guarded_namespace_is_read_only_or_hidden() {
        let (cri, other) = (name("k8s.io"), name("default"));
        for visible in [false, true] {
            let access = Access::guarded(cri.clone(), visible);
            assert_eq!(access.sees(&cri), visible);
            assert!(access.change(&cri).is_err());
            assert!(access.sees(&other) && access.change(&other).is_ok());
            assert!(!access.isolates());
        }
    }
}
