//! What the machine's kernel and policy say: the only part that asks SELinux itself.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use windlass_model::{Error, Result};

use super::context::Context;
use crate::container::wrong;

/// SELinux's file system.
const FILES: &str = "/sys/fs/selinux";
/// What `statfs` says of it (`SELINUX_MAGIC`).
const MAGIC: i64 = 0xf97c_ff8c;
/// The label of every process while no policy is loaded.
const NO_POLICY: &str = "kernel";
/// Where the policy for containers says how they are labelled.
const CONTEXTS: &str = "/usr/share/containers/selinux/contexts";
/// SELinux's configuration, which names the policy.
const CONFIG: &str = "/etc/selinux/config";

/// The policy in force.
#[derive(Debug)]
pub(super) struct Policy {
    /// The label of a container's processes, before what is asked for.
    pub(super) process: Context,
    /// The label of its files.
    pub(super) file: Context,
    /// Where the kernel says whether it knows a label; `None`: nowhere.
    known: Option<PathBuf>,
}

/// True where the kernel has SELinux and a policy is loaded.
pub(super) fn is_on() -> bool {
    let mounted = rustix::fs::statfs(FILES).is_ok_and(|found| found.f_type == MAGIC);
    let own = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    mounted && own.trim_end_matches(['\0', '\n']) != NO_POLICY
}

impl Policy {
    /// Reads the policy's words for containers.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] where there are none.
    pub(super) fn load() -> Result<Self> {
        let config = fs::read_to_string(CONFIG).unwrap_or_default();
        let name = value(&config, "SELINUXTYPE").unwrap_or("targeted");
        let old = Path::new("/etc/selinux").join(name).join("contexts/lxc_contexts");
        let text = fs::read_to_string(CONTEXTS).or_else(|_| fs::read_to_string(&old)).unwrap_or_default();
        let (process, file) = contexts(&text).ok_or_else(|| {
            let places = format!("{CONTEXTS} or {}", old.display());
            Error::precondition(format!("[cri] selinux = true, and no policy for containers is in {places}"))
        })?;
        Ok(Self { process, file, known: Some(Path::new(FILES).join("context")) })
    }

    #[cfg(test)]
    pub(super) fn for_test(process: Context, file: Context) -> Self {
        Self { process, file, known: None }
    }

    /// Refuses a label that the policy does not know.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] naming it.
    pub(super) fn check(&self, label: &str) -> Result<()> {
        let Some(known) = &self.known else { return Ok(()) };
        let written =
            fs::OpenOptions::new().write(true).open(known).and_then(|mut file| file.write_all(label.as_bytes()));
        written.map_err(|error| {
            let why = format!("make the label {label:?}, which the policy does not know: {error}");
            wrong("linux.security_context.selinux_options", &why)
        })
    }
}

/// The labels of processes and files in a text of `key = "label"` lines.
fn contexts(text: &str) -> Option<(Context, Context)> {
    Some((Context::parse(value(text, "process")?)?, Context::parse(value(text, "file")?)?))
}

fn value<'a>(text: &'a str, wanted: &str) -> Option<&'a str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let mut values = lines.filter_map(|line| line.split_once('=')).filter(|(key, _)| key.trim() == wanted);
    values.next().map(|(_, value)| value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policys_words_are_read() {
        let text = "# a remark\nprocess = \"system_u:system_r:container_t:s0\"\n content = \"x\"\n\
                    file=\"system_u:object_r:container_file_t:s0\"\n;file = \"no\"\n";
        let (process, file) = contexts(text).unwrap();
        assert_eq!((process.kind.as_str(), file.kind.as_str()), ("container_t", "container_file_t"));
        assert_eq!(contexts("process = \"a:b:c:s0\"\n"), None);
        assert_eq!(contexts(""), None);
        assert_eq!(value("SELINUX=enforcing\nSELINUXTYPE=mls\n", "SELINUXTYPE"), Some("mls"));
    }

    #[test]
    fn the_kernel_is_asked_whether_it_knows_a_label() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let any = Context::parse("a:b:c:s0").unwrap();
        let known = |known: &Path| Policy { known: Some(known.into()), ..Policy::for_test(any.clone(), any.clone()) };
        known(file.path()).check("a:b:c:s0").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "a:b:c:s0");
        let refused = known(Path::new("/dev/full")).check("a:b:c:s0").unwrap_err();
        assert_eq!(refused.kind(), windlass_model::Kind::InvalidArgument);
        assert!(refused.to_string().contains("selinux_options"), "{refused}");
    }
}
