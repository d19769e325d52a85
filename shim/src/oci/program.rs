//! The program of a process, a container's first or an exec: where it is in the container's files, and its environment.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::fs::{Access, FileType, Mode, OFlags, access, fstat, open, stat};
use rustix::io::Errno;
use windlass_model::environment::decode;
use windlass_model::{Error, Kind, Result};
use windlass_sys::process;

use super::confinement::Confinement;
use super::hooks::AtStart;
use super::label;

/// The most that is read of a container's `/etc/passwd`, in bytes.
const PASSWD_LIMIT: u64 = 1 << 20;

/// A variable of an environment, `NAME=value`.
pub type Variable = Vec<u8>;

/// The program of a container, as libcontainer is to start it.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// What it is put under here; nothing where libcontainer does that.
    pub confinement: Option<Arc<Confinement>>,
    /// What it does when it is started, before it is executed.
    pub at_start: Option<Arc<AtStart>>,
    /// True where this process has met hooks and so has kept `SIGPIPE` from ending it, which the program must not inherit.
    pub hooked: bool,
}

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> std::result::Result<(), ExecutorValidationError> {
        let refuse = |error: Error| ExecutorValidationError::ArgValidationError(error.to_string());
        // The last moment before the process waits for its start, and where libcontainer would have done it by now.
        self.confinement.as_ref().map_or(Ok(()), |confinement| confinement.enter()).map_err(refuse)?;
        let (args, env) = words(spec).map_err(refuse)?;
        let first = args.first().ok_or_else(|| refuse(Error::invalid("process.args is empty")))?;
        // libcontainer has done the same for AppArmor.
        let wanted = spec.process().as_ref().and_then(|process| process.selinux_label().as_deref());
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            label::proc().and_then(|proc| label::selinux(&proc, wanted)).map_err(refuse)?;
        }
        find(first, &env).map(drop).map_err(refuse)
    }

    /// Nothing: the environment goes to the program without being this process's.
    fn setup_envs(&self, _: HashMap<String, String>) -> std::result::Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> std::result::Result<(), ExecutorError> {
        let begun = words(spec).and_then(|(args, env)| {
            let first = args.first().ok_or_else(|| Error::invalid("process.args is empty"))?;
            self.at_start.as_ref().map_or(Ok(()), |hooks| hooks.run(&env))?;
            if self.hooked {
                process::restore_sigpipe()?;
            }
            Ok((find(first, &env)?, args, env))
        });
        let error = match begun {
            Ok((path, args, env)) => execute(&path, args, env),
            Err(error) => error,
        };
        Err(ExecutorError::Other(error.to_string()))
    }
}

/// The arguments and the environment of a container's first process.
fn words(spec: &Spec) -> Result<(&[String], Vec<Variable>)> {
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("no process"))?;
    let mut env = environment(process.env().clone().unwrap_or_default())?;
    add_home(&mut env, process.user().uid());
    Ok((process.args().as_deref().unwrap_or_default(), env))
}

/// The environment that an OCI process means: of a name the last value, in the place of the first, and any bytes, as
/// [`windlass_model::environment`] writes them.
///
/// # Errors
/// [`Kind::InvalidArgument`] for what cannot be a variable.
pub fn environment(env: Vec<String>) -> Result<Vec<Variable>> {
    let mut all: Vec<Variable> = Vec::with_capacity(env.len());
    for entry in env {
        let (name_of_it, text) = entry.split_once('=').unwrap_or((&entry, ""));
        let value = decode(text).filter(|value| !value.contains(&0) && !name_of_it.contains('\0'));
        let value =
            value.ok_or_else(|| Error::invalid(format!("environment variable {name_of_it:?} cannot be set")))?;
        let variable = if entry.contains('=') { [name_of_it.as_bytes(), b"=", &value].concat() } else { entry.into() };
        match all.iter_mut().find(|known| name(known) == name(&variable)) {
            Some(known) => *known = variable,
            None => all.push(variable),
        }
    }
    Ok(all)
}

fn name(variable: &[u8]) -> &[u8] {
    variable.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// A variable's name and value; nothing where it is no `NAME=value`.
pub fn halves(variable: &[u8]) -> Option<(&[u8], &[u8])> {
    let name = name(variable);
    variable.get(name.len() + 1..).map(|value| (name, value))
}

/// The value of `wanted` in an environment.
pub fn value<'a>(env: &'a [Variable], wanted: &str) -> Option<&'a [u8]> {
    let found = env.iter().find(|variable| name(variable) == wanted.as_bytes())?;
    found.get(wanted.len() + 1..)
}

/// Adds `HOME` where it is missing or empty, from this process's `/etc/passwd`; the root folder where that has no such
/// user.
pub fn add_home(env: &mut Vec<Variable>, uid: u32) {
    if value(env, "HOME").is_some_and(|home| !home.is_empty()) {
        return;
    }
    env.retain(|variable| name(variable) != b"HOME");
    let home = passwd().and_then(|passwd| home_of(&passwd, uid)).unwrap_or_else(|| b"/".to_vec());
    env.push([b"HOME=", &home[..]].concat());
}

/// Reads `/etc/passwd`, which may be anything: only a regular file is waited for.
fn passwd() -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open("/etc/passwd", flags, Mode::empty()).ok()?;
    let stat = fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(PASSWD_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn home_of(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    let number = uid.to_string();
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':').skip(2);
        let found = fields.next()? == number.as_bytes();
        let home = fields.nth(2)?;
        (found && !home.is_empty()).then(|| home.to_vec())
    })
}

/// The file that `program` means to this process, which is already where it is to start and who it is to be: a path, or
/// a name to be looked for in `PATH`.
///
/// # Errors
/// [`Kind::NotFound`] where there is none, [`Kind::PermissionDenied`] where this process may not execute it.
pub fn find(program: &str, env: &[Variable]) -> Result<PathBuf> {
    if program.contains('/') {
        return match executable(Path::new(program)) {
            Ok(()) => Ok(program.into()),
            Err(error) => Err(refusal(program, error)),
        };
    }
    let mut denied = None;
    for folder in value(env, "PATH").unwrap_or_default().split(|byte| *byte == b':') {
        let folder = if folder.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(folder) };
        let candidate = Path::new(folder).join(program);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => denied = Some(Errno::ACCESS),
            Err(_) => {}
        }
    }
    match denied {
        Some(error) => Err(refusal(program, error)),
        None => Err(Error::not_found(format!("exec: {program:?}: executable file not found in $PATH"))),
    }
}

fn executable(path: &Path) -> std::result::Result<(), Errno> {
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    access(path, Access::EXEC_OK)
}

/// What it means that `program` cannot be executed.
pub fn refusal(program: &str, error: Errno) -> Error {
    let kind = match error {
        Errno::NOENT | Errno::NOTDIR => Kind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ISDIR => Kind::PermissionDenied,
        _ => Kind::Internal,
    };
    let said = std::io::Error::from(error).to_string().to_lowercase();
    let said = said.split(" (os error").next().unwrap_or_default();
    Error::new(kind, format!("exec: {program:?}: {said}"))
}

/// Becomes the program; comes back only with the reason why not.
pub fn execute(path: &Path, args: &[String], env: Vec<Variable>) -> Error {
    let words = |texts: Vec<OsString>| texts.into_iter().map(|text| CString::new(text.into_vec())).collect();
    let path_word = CString::new(path.as_os_str().as_bytes());
    let args: std::result::Result<Vec<CString>, _> = words(args.iter().map(OsString::from).collect());
    let env: std::result::Result<Vec<CString>, _> = words(env.into_iter().map(OsString::from_vec).collect());
    let (Ok(path_word), Ok(args), Ok(env)) = (path_word, args, env) else {
        return Error::invalid("an argument has a zero byte");
    };
    let Err(error) = nix::unistd::execve(&path_word, &args, &env);
    refusal(&path.to_string_lossy(), Errno::from_raw_os_error(error as i32))
}

/// Goes to `path`, as the container's files are seen now.
///
/// # Errors
/// [`Errno`] of the kernel.
pub fn go_to(path: &str) -> std::result::Result<(), Errno> {
    rustix::process::chdir(path)
}

/// Refuses to be in a folder that this process's root does not hold: a descriptor of the host's may have led there.
///
/// # Errors
/// [`Kind::PermissionDenied`] where it is not held.
pub fn check_place() -> Result<()> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Error::new(Kind::PermissionDenied, "the working directory is not in the container")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn env(variables: &[&str]) -> Vec<Variable> {
        environment(variables.iter().map(|text| (*text).to_owned()).collect()).unwrap()
    }

    #[test]
    fn an_environment_has_each_name_once_and_any_bytes() {
        let all = env(&["A=1", "B=2", "A=3=4", "odd", "B=\0fffe", "D="]);
        assert_eq!(all, [&b"A=3=4"[..], b"B=\xff\xfe", b"odd", b"D="]);
        assert_eq!((value(&all, "D"), value(&all, "E")), (Some(&b""[..]), None));
        for wrong in ["A=x\0", "A\0=x", "A=\0zz", "A=\0\0", "A\0"] {
            assert!(environment(vec![wrong.to_owned()]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_home_is_the_one_of_the_user() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\na:x:7:7::/home/a:/bin/sh\nb:x:8:8:::\n";
        assert_eq!(home_of(passwd, 7).as_deref(), Some(&b"/home/a"[..]));
        assert_eq!(home_of(passwd, 0).as_deref(), Some(&b"/root"[..]));
        assert_eq!((home_of(passwd, 8), home_of(passwd, 9)), (None, None));
        let mut own = env(&["HOME=/x"]);
        add_home(&mut own, 0);
        assert_eq!(own, [b"HOME=/x"]);
        let mut none = env(&["HOME="]);
        add_home(&mut none, u32::MAX - 7);
        assert_eq!(none, [b"HOME=/"]);
    }

    #[test]
    fn a_program_is_found_or_its_absence_explained() {
        let folder = std::env::temp_dir().join(format!("w-program-{}", std::process::id()));
        let (first, second) = (folder.join("first"), folder.join("second"));
        fs::create_dir_all(first.join("both")).unwrap();
        fs::create_dir_all(&second).unwrap();
        for (file, mode) in [(first.join("plain"), 0o644), (second.join("both"), 0o755)] {
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = env(&[&format!("PATH={}:{}", first.display(), second.display())]);
        let found = find("both", &path).unwrap();
        let denied = find("plain", &path).unwrap_err();
        let direct = find(&format!("{}/plain", first.display()), &path).unwrap_err();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, second.join("both"));
        assert_eq!((denied.kind(), direct.kind()), (Kind::PermissionDenied, Kind::PermissionDenied));
        assert_eq!(denied.to_string(), "exec: \"plain\": permission denied");
        let missing = find("nothing", &path).unwrap_err();
        assert_eq!(missing.to_string(), "exec: \"nothing\": executable file not found in $PATH");
        assert_eq!(find("/no/such", &path).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(find("/", &path).unwrap_err().kind(), Kind::PermissionDenied);
        assert_eq!(find("sh", &[]).unwrap_err().kind(), Kind::NotFound);
    }
}
