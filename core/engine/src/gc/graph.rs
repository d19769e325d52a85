//! What keeps what: all things and the references between them, marked from the roots.

use std::collections::HashMap;

use windlass_model::snapshotter::{Kind, Labels};
use windlass_model::{Digest, Id, LeaseId, Namespace, Result, Timestamp};

use super::labels::{Tie, is_over, is_root, ties};
use super::{GRACE, SnapshotKey};
use crate::ContainerRecord;
use crate::images::ImageRecord;
use crate::leases::LeaseRecord;
use crate::meta::Reader;
use crate::meta::schema::{BLOBS, CONTAINERS, IMAGES, LEASED, LEASES, MOUNTS, SANDBOXES, SNAPSHOTS};
use crate::mounts::Activation;
use crate::snapshots::{SnapshotRecord, driver_name};

/// A thing that is kept, or keeps something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Blob(Namespace, Digest),
    Snapshot(Namespace, String, String),
    Image(Namespace, String),
    Container(Namespace, Id),
    Mount(Namespace, String),
}

/// How a thing is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    /// Not at all.
    #[default]
    None,
    /// By a flat lease: with what it stands on or points at, not with what its labels refer to.
    Flat,
    /// With everything it refers to.
    Full,
}

/// A thing, known by its number.
#[derive(Debug)]
struct Vertex {
    node: Node,
    /// False for what something refers to but is not there.
    recorded: bool,
    /// A snapshot's parent, an image's target, a container's snapshot.
    core: Option<usize>,
    /// What its labels, or those of others, say that it keeps.
    keeps: Vec<usize>,
    mark: Mark,
}

/// All things at one moment.
#[derive(Debug)]
pub(super) struct Graph {
    now: Timestamp,
    numbers: HashMap<Node, usize>,
    vertices: Vec<Vertex>,
    todo: Vec<(usize, Mark)>,
    /// Leases whose time is over.
    pub(super) expired: Vec<(Namespace, LeaseId)>,
}

impl Graph {
    /// Reads all records, and marks what stays.
    pub(super) fn read(reader: &impl Reader, now: Timestamp) -> Result<Self> {
        let mut graph =
            Self { now, numbers: HashMap::new(), vertices: Vec::new(), todo: Vec::new(), expired: Vec::new() };
        reader.each(&BLOBS, &(), &mut |key, blob| {
            graph.blob(key, &blob.labels);
            Ok(())
        })?;
        reader.each(&SNAPSHOTS, &(), &mut |key, snapshot| {
            graph.snapshot(key, &snapshot);
            Ok(())
        })?;
        reader.each(&IMAGES, &(), &mut |key, image| {
            graph.image(key, &image);
            Ok(())
        })?;
        reader.each(&CONTAINERS, &(), &mut |key, container| {
            graph.container(key, &container);
            Ok(())
        })?;
        reader.each(&SANDBOXES, &(), &mut |key, sandbox| {
            graph.sandbox(&key.0, &sandbox.labels);
            Ok(())
        })?;
        reader.each(&MOUNTS, &(), &mut |key, activation| graph.activation(reader, key, &activation).map(drop))?;
        for (key, lease) in reader.scan(&LEASES, &())? {
            graph.lease(reader, key, &lease)?;
        }
        graph.follow();
        Ok(graph)
    }

    /// Things that nothing keeps, in the order in which they may go: whoever refers to others first.
    pub(super) fn garbage(&self) -> Vec<usize> {
        let unmarked = |vertex: &Vertex| vertex.recorded && vertex.mark == Mark::None;
        let mut found: Vec<usize> =
            (0..self.vertices.len()).filter(|number| unmarked(&self.vertices[*number])).collect();
        found.sort_by_cached_key(|number| {
            let vertex = &self.vertices[*number];
            let (rank, below) = match vertex.node {
                Node::Image(..) | Node::Container(..) | Node::Mount(..) => (0, 0),
                Node::Snapshot(..) => (1, self.depth(*number)),
                Node::Blob(..) => (2, vertex.keeps.len()),
            };
            (rank, usize::MAX - below)
        });
        found
    }

    /// The thing of that number, if nothing keeps it (any more).
    pub(super) fn unkept(&self, number: usize) -> Option<&Node> {
        self.vertices.get(number).filter(|vertex| vertex.mark == Mark::None).map(|vertex| &vertex.node)
    }

    /// Takes what was written under a key since the graph was read: it stays, with everything it refers to.
    pub(super) fn revive(&mut self, reader: &impl Reader, bytes: &[u8]) -> Result<()> {
        let mut revived = None;
        if let Some(key) = BLOBS.key_from(bytes) {
            revived = reader.find(&BLOBS, &key)?.map(|blob| self.blob(key, &blob.labels));
        } else if let Some(key) = SNAPSHOTS.key_from(bytes) {
            revived = reader.find(&SNAPSHOTS, &key)?.map(|snapshot| self.snapshot(key, &snapshot));
        } else if let Some(key) = IMAGES.key_from(bytes) {
            revived = reader.find(&IMAGES, &key)?.map(|image| self.image(key, &image));
        } else if let Some(key) = CONTAINERS.key_from(bytes) {
            revived = reader.find(&CONTAINERS, &key)?.map(|container| self.container(key, &container));
        } else if let Some(key) = SANDBOXES.key_from(bytes) {
            if let Some(sandbox) = reader.find(&SANDBOXES, &key)? {
                self.sandbox(&key.0, &sandbox.labels);
            }
        } else if let Some(key) = MOUNTS.key_from(bytes) {
            if let Some(activation) = reader.find(&MOUNTS, &key)? {
                revived = Some(self.activation(reader, key, &activation)?);
            }
        } else if let Some(key) = LEASED.key_from(bytes)
            && reader.has(&LEASED, &key)?
        {
            revived = held(key).map(|node| self.number(node));
        }
        self.todo.extend(revived.map(|number| (number, Mark::Full)));
        Ok(())
    }

    /// Follows references until there are no new ones.
    pub(super) fn follow(&mut self) {
        while let Some((number, mark)) = self.todo.pop() {
            let Some(vertex) = self.vertices.get_mut(number).filter(|vertex| vertex.mark < mark) else { continue };
            vertex.mark = mark;
            self.todo.extend(vertex.core.map(|core| (core, mark)));
            if mark == Mark::Full {
                self.todo.extend(vertex.keeps.iter().map(|kept| (*kept, mark)));
            }
        }
    }

    fn number(&mut self, node: Node) -> usize {
        if let Some(number) = self.numbers.get(&node) {
            return *number;
        }
        let number = self.vertices.len();
        self.numbers.insert(node.clone(), number);
        self.vertices.push(Vertex { node, recorded: false, core: None, keeps: Vec::new(), mark: Mark::None });
        number
    }

    /// Notes a record, what it stands on or points at, and what its labels say.
    fn record(&mut self, node: Node, core: Option<Node>, namespace: &Namespace, labels: &Labels) -> usize {
        let number = self.number(node);
        let core = core.map(|core| self.number(core));
        self.vertices[number].recorded = true;
        self.vertices[number].core = core;
        for tie in ties(namespace, labels) {
            let (keeper, kept) = match tie {
                Tie::Keeps(node) => (number, self.number(node)),
                Tie::KeptBy(node) => (self.number(node), number),
            };
            self.vertices[keeper].keeps.push(kept);
            // Whoever is marked already has been followed.
            if self.vertices[keeper].mark == Mark::Full {
                self.todo.push((kept, Mark::Full));
            }
        }
        number
    }

    fn root_if(&mut self, number: usize, is_root: bool) -> usize {
        self.todo.extend(is_root.then_some((number, Mark::Full)));
        number
    }

    fn blob(&mut self, (namespace, digest): (Namespace, Digest), labels: &Labels) -> usize {
        let number = self.record(Node::Blob(namespace.clone(), digest), None, &namespace, labels);
        self.root_if(number, is_root(labels, self.now))
    }

    fn snapshot(&mut self, (namespace, driver, key): SnapshotKey, record: &SnapshotRecord) -> usize {
        let parent = record.parent.clone().map(|parent| Node::Snapshot(namespace.clone(), driver.clone(), parent));
        let number = self.record(Node::Snapshot(namespace.clone(), driver, key), parent, &namespace, &record.labels);
        let fresh = record.kind != Kind::Committed && !record.leased && self.is_young(record.created_at);
        self.root_if(number, fresh || is_root(&record.labels, self.now))
    }

    fn image(&mut self, (namespace, name): (Namespace, String), record: &ImageRecord) -> usize {
        let target = Node::Blob(namespace.clone(), record.target.digest);
        let number = self.record(Node::Image(namespace.clone(), name), Some(target), &namespace, &record.labels);
        self.root_if(number, !is_over(&record.labels, self.now))
    }

    fn container(&mut self, (namespace, id): (Namespace, Id), record: &ContainerRecord) -> usize {
        let key = Some(record.snapshot_key.clone()).filter(|key| !key.is_empty());
        let driver = driver_name(&record.snapshotter).to_owned();
        let snapshot = key.map(|key| Node::Snapshot(namespace.clone(), driver, key));
        let number = self.record(Node::Container(namespace.clone(), id), snapshot, &namespace, &record.labels);
        self.root_if(number, true)
    }

    fn sandbox(&mut self, namespace: &Namespace, labels: &Labels) {
        for tie in ties(namespace, labels) {
            if let Tie::Keeps(node) = tie {
                let number = self.number(node);
                self.root_if(number, true);
            }
        }
    }

    fn activation(&mut self, reader: &impl Reader, key: (Namespace, String), record: &Activation) -> Result<usize> {
        let (namespace, name) = key;
        let number = self.record(Node::Mount(namespace.clone(), name), None, &namespace, &record.labels);
        let held = match &record.lease {
            Some(id) => {
                let lease = reader.find(&LEASES, &(namespace, id.clone()))?;
                lease.is_some_and(|lease| !is_over(&lease.labels, self.now))
            }
            None => self.is_young(record.created_at),
        };
        Ok(self.root_if(number, held || !record.is_whole() || is_root(&record.labels, self.now)))
    }

    /// True where something may yet be recorded that refers to what was made then.
    fn is_young(&self, created_at: Timestamp) -> bool {
        created_at.nanos() > self.now.nanos().saturating_sub(GRACE.as_nanos() as i64)
    }

    fn lease(&mut self, reader: &impl Reader, key: (Namespace, LeaseId), lease: &LeaseRecord) -> Result<()> {
        // A label that cannot be read keeps the lease.
        if is_over(&lease.labels, self.now) {
            self.expired.push(key);
            return Ok(());
        }
        let mark = if lease.is_flat() { Mark::Flat } else { Mark::Full };
        reader.each(&LEASED, &key, &mut |key, ()| {
            if let Some(node) = held(key) {
                let number = self.number(node);
                self.todo.push((number, mark));
            }
            Ok(())
        })
    }

    /// How many snapshots are below one.
    fn depth(&self, number: usize) -> usize {
        let below = |number: &usize| self.vertices[*number].core;
        // Parents cannot go in a circle, but damaged records might.
        std::iter::successors(Some(number), below).take(self.vertices.len()).count()
    }
}

/// What a lease's row stands for; nothing in the graph for an ingest, which looks at its lease itself.
fn held((namespace, _, kind, id): (Namespace, LeaseId, String, String)) -> Option<Node> {
    match (kind.as_str(), kind.strip_prefix("snapshots/")) {
        ("content", _) => Some(Node::Blob(namespace, id.parse().ok()?)),
        ("images", _) => Some(Node::Image(namespace, id)),
        (_, Some(driver)) => Some(Node::Snapshot(namespace, driver_name(driver).to_owned(), id)),
        _ => None,
    }
}
