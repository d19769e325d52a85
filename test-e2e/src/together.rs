//! One daemon with pods of a kubelet, containers of Docker and tasks of `ctr`, all at work.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cri;
use crate::cri::words::KeyValue;
use crate::crossing::SECRET;
use crate::docker::Docker;
use crate::image::{Compression, Layer, Recipe};
use crate::node::{Node, Plan, Pod};
use crate::{Ctr, eventually};

/// How many pods, Docker containers and tasks there are.
const EACH: usize = 2;

/// A daemon with all three kinds of tenants.
#[derive(Debug)]
pub struct House {
    /// The node, and its kubelet.
    pub node: Node,
    /// Docker.
    pub docker: Docker,
    /// The person at a shell.
    pub ctr: Ctr,
    /// The namespace of `ctr`, which is nobody's else.
    pub shell: &'static str,
    /// The CRI's image, and the other one of `ctr`.
    pub images: [String; 2],
    /// With a container each.
    pub pods: Vec<Pod>,
    /// Docker's, by id.
    pub containers: Vec<String>,
    /// By name.
    pub tasks: Vec<String>,
}

impl House {
    /// All of them at work; none where containerd is judged. `docker` is the socket that dockerd has.
    ///
    /// # Errors
    /// What any of them says.
    pub async fn open(plan: Plan, docker: &str) -> Result<Option<Self>> {
        let mut node = Node::start_with(plan).await?;
        if node.excused("Docker and the CRI on one containerd need no proof here") {
            return Ok(None);
        }
        let own = node.busybox().await?;
        let layer = Layer::busybox(Compression::Gzip)?;
        let other =
            Recipe::new().layer(layer).layer(Layer::of_file(Compression::Gzip, "of-the-shell", b"yes")?).build()?;
        let other = node.registry.push("shell", "1", &other)?;
        // For the life of this process; there is one in each.
        let shell: &'static str = Box::leak(format!("shell-{}", node.tag()).into_boxed_str());
        let docker = Docker::start_on(&node, node.dir().join(docker)).await?;
        docker.import()?;
        let ctr = Ctr::debian(&node);
        ctr.run(shell, &["images", "pull", "--plain-http", &other])?;
        let (pods, containers, tasks) = (Vec::new(), Vec::new(), Vec::new());
        let mut house = Self { node, docker, ctr, shell, images: [own, other], pods, containers, tasks };
        for index in 0..EACH {
            house.move_in(index).await?;
        }
        Ok(Some(house))
    }

    /// One more of each.
    ///
    /// # Errors
    /// What any of them says.
    pub async fn move_in(&mut self, index: usize) -> Result<()> {
        let config = self.node.pod(&format!("pod{index}"));
        let pod = self.node.cri.run_pod(&config).await?;
        let mut what = cri::container("main", &self.images[0], &["sleep", "1000"]);
        what.envs.push(KeyValue { key: "SECRET".into(), value: SECRET.into() });
        let container = self.node.add(&pod, &config, what).await?;
        self.pods.push(Pod { id: pod, container, config });

        let (name, env) = (format!("whale{index}"), format!("SECRET={SECRET}"));
        let run = ["run", "-d", "--network", "none", "--name", &name, "-e", &env, "box", "sleep", "1000"];
        self.containers.push(self.docker.run(&run)?);

        let name = format!("task{index}");
        self.ctr.run(self.shell, &["run", "-d", "--env", &env, &self.images[1], &name, "sleep", "1000"])?;
        self.tasks.push(name);
        Ok(())
    }

    /// All run what they are asked to.
    ///
    /// # Errors
    /// The first that does not.
    pub async fn assert_alive(&self) -> Result<()> {
        for pod in &self.pods {
            ensure!(self.node.cri.output(&pod.container, &["echo", "pod"]).await? == "pod\n");
        }
        for container in &self.containers {
            // dockerd needs a moment to connect again after the daemon's end.
            let mut told = None;
            let exec = eventually("Docker runs a program", Duration::from_secs(10), async || {
                told = self.docker.output(&["exec", container, "echo", "docker"]).ok();
                told.as_ref().filter(|output| output.stdout == b"docker\n").map(drop)
            });
            exec.await.with_context(|| format!("{told:?}"))?;
        }
        for (index, task) in self.tasks.iter().enumerate() {
            let exec = format!("exec-{index}");
            let output = self.ctr.run(self.shell, &["tasks", "exec", "--exec-id", &exec, task, "echo", "ctr"])?;
            ensure!(output == "ctr\n", "{output}");
        }
        Ok(())
    }

    /// Everybody takes away what is its own, and nothing is left.
    ///
    /// # Errors
    /// What any of them says, or what is left.
    pub async fn close(mut self) -> Result<()> {
        for pod in &self.pods {
            self.node.cri.stop(&pod.container, 0).await?;
            self.node.cri.remove(&pod.container).await?;
            self.node.cri.stop_pod(&pod.id).await?;
            self.node.cri.remove_pod(&pod.id).await?;
        }
        for container in &self.containers {
            self.docker.run(&["stop", "-t", "0", container])?;
            self.docker.run(&["rm", container])?;
        }
        for task in &self.tasks {
            self.ctr.run(self.shell, &["tasks", "kill", "-s", "SIGKILL", task])?;
            eventually("the task ends", Duration::from_secs(20), async || {
                self.ctr.run(self.shell, &["tasks", "ls"]).ok()?.contains("STOPPED").then_some(())
            })
            .await?;
            self.ctr.output(self.shell, &["tasks", "rm", task])?;
            self.ctr.run(self.shell, &["containers", "rm", task])?;
        }
        self.ctr.run(self.shell, &["images", "rm", "--sync", &self.images[1]])?;
        self.pods.clear();
        self.containers.clear();
        self.tasks.clear();
        let Self { node, docker, ctr, shell, .. } = self;
        drop(docker);
        // Nothing is in them.
        for namespace in [shell, "moby"] {
            ctr.run("default", &["namespaces", "rm", namespace])?;
        }
        node.finish().await
    }
}
