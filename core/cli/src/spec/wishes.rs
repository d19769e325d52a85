//! What a command line asks of a container and of its program.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use crate::human;
use crate::labels;
use crate::terminal;

/// How the CPU's time is shared out: in pieces of this length, in microseconds.
const PERIOD: u64 = 100_000;

/// What is asked of a program, in a new container or in one that runs.
#[derive(Debug, Default, Args)]
pub(crate) struct ProcessWishes {
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// A variable of its environment; a name alone stands for our own variable
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<String>,
    /// The folder that it starts in
    #[arg(long, value_name = "FOLDER")]
    pub cwd: Option<String>,
    /// Whom it runs as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
}

/// The most that a container may take.
#[derive(Debug, Default, Args)]
pub(crate) struct Limits {
    /// The most memory: 64Mi, 1G
    #[arg(long, value_name = "BYTES", value_parser = human::bytes)]
    pub memory_limit: Option<u64>,
    /// The most processors: 1.5
    #[arg(long, value_name = "COUNT", value_parser = cpus)]
    pub cpus: Option<f64>,
    /// The most processes
    #[arg(long, value_name = "COUNT")]
    pub pids_limit: Option<i64>,
}

/// What is asked of a container.
#[derive(Debug, Default, Args)]
pub(crate) struct Wishes {
    /// The image; with --rootfs, a folder that holds the root file system
    pub image: String,
    /// The container's id
    pub id: String,
    /// The program and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    #[command(flatten)]
    pub process: ProcessWishes,
    /// IMAGE is a folder on the daemon's machine, and is the root file system itself
    #[arg(long)]
    pub rootfs: bool,
    /// Mount something: type=bind,src=/here,dst=/there,options=rbind:ro
    #[arg(long = "mount", value_name = "FIELDS", value_parser = Mount::read)]
    pub mounts: Vec<Mount>,
    /// Share the machine's network, with its /etc/hosts and /etc/resolv.conf
    #[arg(long)]
    pub net_host: bool,
    /// Join a namespace: network:/run/netns/blue
    #[arg(long = "with-ns", value_name = "KIND:PATH", value_parser = namespace)]
    pub namespaces: Vec<(String, String)>,
    /// The name that programs take the machine's for
    #[arg(long)]
    pub hostname: Option<String>,
    /// Keep the root file system from being written to
    #[arg(long)]
    pub read_only: bool,
    /// All capabilities, all devices, nothing hidden
    #[arg(long)]
    pub privileged: bool,
    /// Let programs gain privileges, by setuid bits and the like
    #[arg(long)]
    pub allow_new_privs: bool,
    /// A further capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// A capability less, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// A device of the machine
    #[arg(long = "device", value_name = "PATH")]
    pub devices: Vec<String>,
    #[command(flatten)]
    pub limits: Limits,
    /// The cgroup, instead of /NAMESPACE/ID
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// An annotation of the specification
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = labels::pair)]
    pub annotations: Vec<(String, String)>,
}

impl ProcessWishes {
    /// Width and height of our terminal, where the program gets one too.
    pub fn console(&self) -> Option<(u32, u32)> {
        if self.tty { terminal::size() } else { None }
    }
}

impl Limits {
    /// As a specification has them; an empty object where nothing is limited.
    pub fn resources(&self) -> Value {
        let mut all = json!({});
        if let Some(bytes) = self.memory_limit {
            all["memory"] = json!({ "limit": bytes });
        }
        if let Some(cpus) = self.cpus {
            all["cpu"] = json!({ "period": PERIOD, "quota": (cpus * PERIOD as f64) as u64 });
        }
        if let Some(limit) = self.pids_limit {
            all["pids"] = json!({ "limit": limit });
        }
        all
    }
}

/// A mount that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    kind: String,
    source: String,
    pub target: String,
    options: Vec<String>,
}

impl Mount {
    /// Reads fields as `ctr` has them; options are separated by colons.
    fn read(text: &str) -> Result<Self, String> {
        let mut mount = Self { kind: String::new(), source: String::new(), target: String::new(), options: Vec::new() };
        for field in text.split(',') {
            let (name, value) = field.split_once('=').ok_or_else(|| format!("{field:?} is not FIELD=VALUE"))?;
            match name {
                "type" => mount.kind = value.into(),
                "source" | "src" => mount.source = value.into(),
                "destination" | "dst" | "target" => mount.target = value.into(),
                "options" => mount.options = value.split(':').map(str::to_owned).collect(),
                _ => return Err(format!("{name:?} is no field of a mount: type, src, dst, options")),
            }
        }
        if !Path::new(&mount.target).is_absolute() {
            return Err("a mount needs dst, an absolute path".into());
        }
        if mount.kind.is_empty() {
            mount.kind = "bind".into();
        }
        let binds = |option: &String| option == "bind" || option == "rbind";
        if mount.kind == "bind" && !mount.options.iter().any(binds) {
            mount.options.insert(0, "rbind".into());
        }
        Ok(mount)
    }

    /// As a specification has it.
    pub fn place(&self) -> Value {
        json!({ "destination": self.target, "type": self.kind, "source": self.source, "options": self.options })
    }
}

/// Reads `NAME=VALUE`, or `NAME` for our own variable of that name.
fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err("a variable is NAME=VALUE".into()),
        Some(_) => Ok(text.into()),
        None => match std::env::var(text) {
            Ok(value) => Ok(format!("{text}={value}")),
            Err(_) => Err(format!("{text} is not in our environment: NAME=VALUE gives it a value")),
        },
    }
}

fn namespace(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((kind, path)) if !kind.is_empty() && path.starts_with('/') => Ok((kind.into(), path.into())),
        _ => Err("a namespace is KIND:PATH".into()),
    }
}

fn cpus(text: &str) -> Result<f64, String> {
    let count = text.parse::<f64>().ok().filter(|count| (0.01..=100_000.0).contains(count));
    count.ok_or_else(|| "a count of processors is 0.01 and more".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_ctr_has_them() {
        let mount = Mount::read("type=bind,src=/a,dst=/b,options=rbind:ro").expect("good");
        let place = json!({ "destination": "/b", "type": "bind", "source": "/a", "options": ["rbind", "ro"] });
        assert_eq!(mount.place(), place);
        let short = Mount::read("src=/a,dst=/b,options=ro").expect("good");
        assert_eq!(short.options, ["rbind", "ro"]);
        let tmpfs = Mount::read("type=tmpfs,dst=/t").expect("good");
        assert!(tmpfs.options.is_empty());
        for text in ["", "dst=b", "src=/a", "nonsense=1,dst=/b", "dst"] {
            assert!(Mount::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_values_are_checked() {
        assert_eq!(variable("A=b=c"), Ok("A=b=c".into()));
        assert!(variable("=b").is_err() && variable("NO_SUCH_VARIABLE_HERE").is_err());
        assert_eq!(namespace("network:/run/netns/x"), Ok(("network".into(), "/run/netns/x".into())));
        assert!(namespace("network").is_err() && namespace("network:x").is_err());
        assert_eq!(cpus("1.5"), Ok(1.5));
        assert!(cpus("0").is_err() && cpus("-1").is_err() && cpus("NaN").is_err() && cpus("inf").is_err());
    }
}
