//! Devices of the Container Device Interface: asked for by field and by annotation, and what is wrong with their files.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use tonic::Code;
use windlass_test_e2e::words::{CdiDevice, ContainerConfig};
use windlass_test_e2e::{Node, code, cri};

/// A file in the machine's own folder, gone at the end.
struct File(PathBuf);

impl File {
    fn write(name: &str, text: &str) -> Result<Self> {
        let folder = PathBuf::from("/var/run/cdi");
        fs::create_dir_all(&folder)?;
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(Self(path))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
        // Only where nobody else has a file there.
        fs::remove_dir("/var/run/cdi").ok();
    }
}

fn asking(image: &str, device: &str) -> ContainerConfig {
    let mut what = cri::container("main", image, &["sleep", "1000"]);
    what.cdi_devices = vec![CdiDevice { name: device.to_owned() }];
    what
}

#[tokio::test(flavor = "multi_thread")]
async fn a_described_device_is_in_its_container_only() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let vendor = format!("{}.example/unit", node.tag());
    let data = node.dir().join("data");
    fs::write(&data, "of the vendor")?;
    let text = format!(
        "cdiVersion: 0.6.0\nkind: {vendor}\ncontainerEdits:\n  env: [VENDOR=all]\ndevices:\n- name: one\n  containerEdits:\n    \
         env: [UNIT=one]\n    deviceNodes:\n    - path: /dev/unit\n      hostPath: /dev/null\n    mounts:\n    - hostPath: {}\n      \
         containerPath: /data\n      options: [ro, bind]\n    additionalGids: [4242]\n",
        data.display()
    );
    let _file = File::write(&format!("{}.yaml", node.tag()), &text)?;
    let config = node.pod("cdi");
    let pod = node.cri.run_pod(&config).await?;
    let script = "echo $VENDOR $UNIT; cat /data; echo; id -G; echo gone > /dev/unit && cat /dev/unit; sleep 1000";
    let mut what = asking(&image, &format!("{vendor}=one"));
    what.command = ["sh", "-c", script].map(str::to_owned).into();
    let first = node.add(&pod, &config, what).await?;
    let lines = windlass_test_e2e::eventually("the lines", std::time::Duration::from_secs(10), async || {
        let log = node.raw_log("cdi", "main.log");
        (log.len() >= 3).then_some(log)
    })
    .await?;
    ensure!(lines[0].ends_with(" stdout F all one"), "{lines:?}");
    ensure!(lines[1].ends_with(" stdout F of the vendor"), "{lines:?}");
    ensure!(lines[2].contains("4242") && lines.len() == 3, "{lines:?}");

    let beside = node.cri.output(&first, &["sh", "-c", "echo $VENDOR $UNIT; id -G"]).await?;
    ensure!(beside.starts_with("all one\n") && beside.contains("4242"), "{beside:?}");

    let mut by_annotation = cri::container("second", &image, &["sh", "-c", "test -c /dev/unit"]);
    by_annotation.annotations.insert("cdi.k8s.io/units".into(), format!("{vendor}=one"));
    let second = node.add(&pod, &config, by_annotation).await?;
    ensure!(node.exited(&second).await?.exit_code == 0);
    let third = node.add(&pod, &config, cri::container("third", &image, &["sh", "-c", "test -e /dev/unit"])).await?;
    ensure!(node.exited(&third).await?.exit_code == 1, "only who asks for it has the device");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_describes_is_refused_with_the_broken_files() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.pod("wrong");
    let pod = node.cri.run_pod(&config).await?;
    let broken = format!("{}-broken.json", node.tag());
    let _file = File::write(&broken, "{\"cdiVersion\": \"0.6.0\"")?;
    for (device, words) in
        [("no-name", vec!["CDI_devices[0].name"]), ("a.example/b=c", vec!["a.example/b=c", broken.as_str()])]
    {
        let refused = node.cri.create(&pod, &asking(&image, device), &config).await;
        ensure!(code(&refused) == Code::InvalidArgument, "{device}: {refused:?}");
        let message = refused.err().map(|status| status.message().to_owned()).unwrap_or_default();
        ensure!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    ensure!(node.cri.containers(None).await?.is_empty());
    node.finish().await
}
