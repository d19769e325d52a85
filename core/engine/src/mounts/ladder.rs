//! The rungs of an activation: a folder or file is recorded before it is made, and what was mounted after each mount.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use windlass_model::{Context, Error, Kind, Mount, Result, Timestamp};
use windlass_sys::loops;
use windlass_sys::mount::{is_mounted, mount_all, unmount};

use super::ground::{Ground, Safe};
use super::make::{self, Made};
use super::options::Make;
use super::plan::{LOOP, MOST, Plan};
use super::{Activation, ActiveMount, Key, Mounts};
use crate::snapshots::Folders;

/// An activation on its way.
pub(super) struct Ladder {
    mounts: Mounts,
    key: Key,
    ground: Ground,
    home: Home,
    pub(super) record: Activation,
}

/// An activation's folder, and the beginning of the labels of its loop devices.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) folder: PathBuf,
    pub(super) label: String,
}

impl Ladder {
    pub(super) fn new(mounts: Mounts, key: Key, record: Activation) -> Result<Self> {
        let home = Home::of(&mounts.tenant.core.0.state, &record.id);
        let ground = Ground::new(Folders::of(&mounts.tenant)?, home.folder.clone());
        Ok(Self { mounts, key, ground, home, record })
    }

    /// Does all of a plan. What was done when it fails is for [`undo`].
    pub(super) async fn climb(&mut self, plan: Plan, temporary: bool) -> Result<()> {
        for step in plan.mounted {
            let (mount, makes) = step.ready(&self.record.active)?;
            self.make(makes).await?;
            self.mount(mount).await?;
        }
        if let Some(step) = plan.prepared {
            let (mount, makes) = step.ready(&self.record.active)?;
            self.make(makes).await?;
            self.record.system.push(mount);
        }
        self.record.system.extend(plan.left);
        if let Some(last) = self.record.active.last().filter(|_| temporary) {
            let source = last.point.display().to_string();
            let bind = Mount { kind: "bind".into(), source, options: vec!["rbind".into()], ..Mount::default() };
            self.record.system.push(bind);
        }
        let whole = Activation { is_whole: true, made: Vec::new(), ..self.record.clone() };
        self.mounts.put(self.key.clone(), whole.clone()).await?;
        self.record = whole;
        Ok(())
    }

    async fn put(&self) -> Result<()> {
        self.mounts.put(self.key.clone(), self.record.clone()).await
    }

    async fn make(&mut self, makes: Vec<Make>) -> Result<()> {
        for one in makes {
            match one {
                Make::Folder { path, mode, owner } => {
                    let spot = self.ground.writable(&path)?;
                    let look = spot.clone();
                    if crate::blocking(move || make::is_folder_there(&look, mode)).await? {
                        continue;
                    }
                    self.record.made.push(Made::new(&spot, self.record.active.len()));
                    self.put().await?;
                    let outcome = crate::blocking(move || make::folder(&spot, mode, owner)).await;
                    self.unless_there(self.record.made.len() - 1, outcome).await?;
                }
                Make::Image(image) => {
                    let spot = self.ground.writable(&image.path)?;
                    let look = spot.clone();
                    if crate::blocking(move || make::is_file_there(&look)).await? {
                        continue;
                    }
                    let draft = make::draft(&spot, &self.record.id);
                    let after = self.record.active.len();
                    self.record.made.extend([Made::new(&spot, after), Made::new(&draft, after)]);
                    self.put().await?;
                    let outcome = make::image(spot, draft, &image).await;
                    self.unless_there(self.record.made.len() - 2, outcome).await?;
                }
            }
        }
        Ok(())
    }

    /// Leaves alone what somebody else was quicker to make: it was not there when it was looked for.
    pub(super) async fn unless_there(&mut self, number: usize, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error) if error.kind() == Kind::AlreadyExists => {
                self.record.made.remove(number);
                self.put().await?;
                // Not the kind that tells a client that its activation is there.
                Err(Error::with_source(Kind::Aborted, "somebody else made it meanwhile", error))
            }
            outcome => outcome,
        }
    }

    async fn mount(&mut self, mount: Mount) -> Result<()> {
        let number = self.record.active.len();
        let point = self.home.folder.join(number.to_string());
        let label = self.home.label(number);
        let ground = std::mem::replace(&mut self.ground, Ground::new(Folders::default(), PathBuf::new()));
        let before = self.record.active.clone();
        let asked = mount.clone();
        let (ground, made) = crate::blocking(move || {
            let mut ground = ground;
            let made = ground.secure(&asked, &before).and_then(|safe| {
                let device = perform(&safe, &point, &label)?;
                ground.add(&safe);
                Ok(ActiveMount { mount: asked, point, mounted_at: Timestamp::now(), device })
            });
            Ok((ground, made))
        })
        .await?;
        self.ground = ground;
        self.record.active.push(made.context(|| format!("mount {number}"))?);
        self.put().await
    }
}

impl Home {
    pub(super) fn of(state: &Path, id: &str) -> Self {
        Self { folder: folders(state).join(id), label: format!("{}{id}:", labels(state)) }
    }

    fn label(&self, number: usize) -> String {
        format!("{}{number}", self.label)
    }
}

/// The folder of all activations.
pub(super) fn folders(state: &Path) -> PathBuf {
    state.join("mounts")
}

/// How the labels of all loop devices begin that a daemon with this state makes.
pub(super) fn labels(state: &Path) -> String {
    let hex = windlass_model::Digest::of(state.as_os_str().as_encoded_bytes()).hex();
    format!("windlass:{}:", &hex[..12])
}

/// Mounts at `point`; gives the device if that is what it is. Blocks.
fn perform(safe: &Safe, point: &Path, label: &str) -> Result<Option<PathBuf>> {
    // What is mounted in there is nobody's to see but root's.
    let folder = point.parent().unwrap_or(point);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .context(|| format!("make {}", folder.display()))?;
    let device = match &safe.file {
        Some((file, options)) => Some(loops::attach(file.as_fd(), *options, label)?),
        None => None,
    };
    if safe.mount.kind == LOOP {
        let device = device.map(|device| device.path).unwrap_or_default();
        return match symlink(&device, point) {
            Ok(()) => Ok(Some(device)),
            Err(error) => {
                loops::detach(&device, label)?;
                Err(error).context(|| format!("make {}", point.display()))
            }
        };
    }
    fs::create_dir(point).context(|| format!("make {}", point.display()))?;
    let mut mount = safe.mount.clone();
    if let Some(device) = &device {
        mount.source = device.path.display().to_string();
    }
    mount_all(&[mount], point)?;
    Ok(None)
}

/// True where everything that was mounted still is. Blocks.
pub(super) fn is_there(home: &Home, active: &[ActiveMount]) -> Result<bool> {
    for (number, mount) in active.iter().enumerate() {
        let there = match &mount.device {
            Some(device) => loops::has_label(device, &home.label(number)) && mount.point.is_symlink(),
            None => is_mounted(&mount.point)?,
        };
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes away all that an activation which is not finished has mounted and made, the last first. Blocks.
pub(super) fn undo(home: &Home, made: &[Made]) -> Result<()> {
    for number in (0..MOST).rev() {
        take_away(home, number)?;
        made.iter().rev().filter(|one| one.after == number).try_for_each(Made::undo)?;
    }
    remove_folder(&home.folder)
}

/// Takes away the mounts and devices in a folder, last one first, and the folder. Blocks.
pub(super) fn clear(home: &Home) -> Result<()> {
    undo(home, &[])
}

/// Takes away one mount or device. What is mounted is never descended into.
fn take_away(home: &Home, number: usize) -> Result<()> {
    let point = home.folder.join(number.to_string());
    if let Ok(device) = fs::read_link(&point) {
        loops::detach(&device, &home.label(number))?;
        return fs::remove_file(&point).context(|| format!("remove {}", point.display()));
    }
    unmount(&point)?;
    remove_folder(&point)
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
