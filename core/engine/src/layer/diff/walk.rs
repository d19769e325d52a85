//! The walk: two trees side by side, or an overlay's upper folder over the tree below it.

use std::io::Write;
use std::os::fd::OwnedFd;

use windlass_model::{Context, Error, Kind, Result};

use super::node::{self, Node};
use super::write::{Layer, join};
use crate::layer::apply::{PREFIX, shown};

/// How deep folders may lie in each other: each level holds two of them open.
const MAX_DEPTH: usize = 400;

/// A walk under way.
pub(super) struct Walk<W> {
    layer: Layer<W>,
    depth: usize,
}

impl<W: Write> Walk<W> {
    pub(super) fn new(layer: Layer<W>) -> Self {
        Self { layer, depth: 0 }
    }

    pub(super) fn finish(self) -> Result<W> {
        self.layer.finish()
    }

    pub(super) fn whole(&mut self, lower: Option<&OwnedFd>, upper: &OwnedFd) -> Result<()> {
        self.root(lower, upper)?;
        self.folders(lower, upper, b"")
    }

    pub(super) fn overlay(&mut self, lower: &OwnedFd, upper: &OwnedFd) -> Result<()> {
        self.root(Some(lower), upper)?;
        self.changes(Some(lower), upper, b"")
    }

    /// The root gets an entry only if it is another than before: most tools expect none.
    fn root(&mut self, lower: Option<&OwnedFd>, upper: &OwnedFd) -> Result<()> {
        let (Some(lower), Some(own)) = (lower, Node::read(upper, b".")?) else { return Ok(()) };
        let changed = !Node::read(lower, b".")?.is_some_and(|lower| lower.is_described_as(&own));
        if changed {
            self.layer.enter(b"", &own, true)?;
        }
        Ok(())
    }

    /// What is different in `upper` from `lower`, both shown whole.
    fn folders(&mut self, lower: Option<&OwnedFd>, upper: &OwnedFd, path: &[u8]) -> Result<()> {
        self.descend(path)?;
        let mut old = lower.map_or(Ok(Vec::new()), node::names)?.into_iter().peekable();
        for name in node::names(upper)? {
            while let Some(gone) = old.next_if(|old| *old < name) {
                self.layer.delete(path, &gone)?;
            }
            let below = if old.next_if_eq(&name).is_some() { lower } else { None };
            let whole = join(path, &name);
            self.name(below, upper, &name, path, &whole).context(|| shown(&whole))?;
        }
        for gone in old {
            self.layer.delete(path, &gone)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn name(&mut self, lower: Option<&OwnedFd>, upper: &OwnedFd, name: &[u8], above: &[u8], path: &[u8]) -> Result<()> {
        let Some(node) = Node::read(upper, name)? else { return Ok(()) };
        check(name)?;
        let below = lower.map_or(Ok(None), |lower| Node::read(lower, name))?.filter(|below| !below.is_whiteout());
        // The lowest folder of an overlay is read as it is, and may hold a deletion of nothing.
        if node.is_whiteout() {
            return if below.is_some() { self.layer.delete(above, name) } else { Ok(()) };
        }
        if !node.is_folder() {
            return self.leaf(lower.zip(below.as_ref()), upper, name, path, &node);
        }
        let Some(folder) = node::folder(upper, name)? else { return Ok(()) };
        let lower = lower.map_or(Ok(None), |lower| node::folder(lower, name))?;
        let changed = !below.is_some_and(|below| is_same_folder(&below, &node));
        self.layer.enter(path, &node, changed)?;
        self.folders(lower.as_ref(), &folder, path)?;
        self.layer.leave();
        Ok(())
    }

    /// What an overlay's upper folder says against `lower`, which is `None` where nothing below counts.
    fn changes(&mut self, lower: Option<&OwnedFd>, upper: &OwnedFd, path: &[u8]) -> Result<()> {
        self.descend(path)?;
        for name in node::names(upper)? {
            let whole = join(path, &name);
            self.change(lower, upper, &name, path, &whole).context(|| shown(&whole))?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn change(
        &mut self,
        lower: Option<&OwnedFd>,
        upper: &OwnedFd,
        name: &[u8],
        above: &[u8],
        path: &[u8],
    ) -> Result<()> {
        let Some(node) = Node::read(upper, name)? else { return Ok(()) };
        check(name)?;
        let below = lower.map_or(Ok(None), |lower| Node::read(lower, name))?;
        if node.is_whiteout() {
            return if below.is_some() { self.layer.delete(above, name) } else { Ok(()) };
        }
        // A folder that was moved, and a file whose bytes stayed below, are seen through their overlay only.
        if node.overlay(b"redirect").is_some() || node.overlay(b"metacopy").is_some() {
            return Err(Error::unimplemented("the overlay keeps a part of this elsewhere"));
        }
        if !node.is_folder() {
            return self.leaf(lower.zip(below.as_ref()), upper, name, path, &node);
        }
        let Some(folder) = node::folder(upper, name)? else { return Ok(()) };
        let opaque = match node.overlay(b"opaque") {
            None => false,
            Some(b"y") => true,
            Some(_) => return Err(Error::unimplemented("the overlay marks deletions here by attributes")),
        };
        let hides = opaque && below.as_ref().is_some_and(Node::is_folder);
        let lower = if opaque { None } else { lower.map_or(Ok(None), |lower| node::folder(lower, name))? };
        let changed = hides || !below.is_some_and(|below| is_same_folder(&below, &node));
        self.layer.enter(path, &node, changed)?;
        if hides {
            self.layer.hide_lower(path)?;
        }
        self.changes(lower.as_ref(), &folder, path)?;
        self.layer.leave();
        Ok(())
    }

    fn leaf(
        &mut self,
        below: Option<(&OwnedFd, &Node)>,
        upper: &OwnedFd,
        name: &[u8],
        path: &[u8],
        node: &Node,
    ) -> Result<()> {
        let same = match below {
            Some((lower, below)) if !below.is_folder() => below.is_same(lower, node, upper, name)?,
            _ => false,
        };
        if same { self.layer.keep(path, node) } else { self.layer.put(upper, name, path, node) }
    }

    fn descend(&mut self, path: &[u8]) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("{:?} lies in more than {MAX_DEPTH} folders", shown(path));
            return Err(Error::new(Kind::ResourceExhausted, message));
        }
        Ok(())
    }
}

fn is_same_folder(below: &Node, node: &Node) -> bool {
    below.is_described_as(node) && below.stat.st_mtime == node.stat.st_mtime
}

/// Refuses a name that would mean a deletion to whoever applies the layer.
fn check(name: &[u8]) -> Result<()> {
    if name.starts_with(PREFIX) {
        return Err(Error::precondition(format!("a layer cannot hold a file called {:?}", shown(name))));
    }
    Ok(())
}
