//! What ExecSync starts beside a container's program is confined as that is.

use std::fs;

use anyhow::{Context, Result, ensure};
use windlass_test_e2e::words::{self, Capability, Int64Value};
use windlass_test_e2e::{Node, cri};

/// Prints what the kernel says about the shell itself.
const STATUS: &str = "while read name value; do echo $name $value; done < /proc/self/status; mkdir /tmp/made 2>&1";

fn context(what: &mut words::ContainerConfig) -> &mut words::LinuxContainerSecurityContext {
    what.linux.get_or_insert_default().security_context.get_or_insert_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exec_sync_starts_is_under_the_containers_profile() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let profile = node.dir().join("no-mkdir.json");
    fs::write(
        &profile,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#,
    )?;
    let config = node.pod("confined");
    let sandbox = node.cri.run_pod(&config).await?;
    for (no_new_privs, uid) in [(true, 0), (false, 0), (true, 1000), (false, 1000)] {
        let name = format!("c-{no_new_privs}-{uid}");
        let mut what = cri::container(&name, &image, &["sleep", "1000"]);
        let security = context(&mut what);
        security.no_new_privs = no_new_privs;
        security.run_as_user = Some(Int64Value { value: uid });
        security.supplemental_groups = vec![4321];
        security.capabilities = Some(Capability {
            drop_capabilities: vec!["ALL".into()],
            add_capabilities: vec!["KILL".into()],
            ..Default::default()
        });
        security.seccomp = Some(words::SecurityProfile {
            profile_type: words::security_profile::ProfileType::Localhost as i32,
            localhost_ref: profile.to_string_lossy().into_owned(),
        });
        let id = node.add(&sandbox, &config, what).await?;
        // The second time the compiled profile is there already.
        for _ in 0..2 {
            let answer = node.cri.exec(&id, &["sh", "-c", STATUS], 10).await?;
            let output = String::from_utf8_lossy(&answer.stdout).into_owned();
            let value = |field: &str| {
                output
                    .lines()
                    .find_map(|line| line.strip_prefix(field))
                    .map(str::trim)
                    .with_context(|| format!("no {field}"))
            };
            ensure!(value("Seccomp:")? == "2", "{name}: {output}");
            ensure!(value("NoNewPrivs:")? == if no_new_privs { "1" } else { "0" }, "{name}: {output}");
            ensure!(value("Uid:")? == format!("{uid} {uid} {uid} {uid}"), "{name}: {output}");
            ensure!(value("Groups:")?.split(' ').any(|group| group == "4321"), "{name}: {output}");
            ensure!(value("CapBnd:")? == "0000000000000020", "{name}: {output}");
            ensure!(
                value("CapEff:")? == if uid == 0 { "0000000000000020" } else { "0000000000000000" },
                "{name}: {output}"
            );
            ensure!(output.contains("Function not implemented"), "{name}: {output}");
        }
    }
    node.finish().await
}
