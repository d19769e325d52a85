//! Opening a root: one core at a time, and what is swept.

use windlass_model::Id;

use crate::events::Received;
use crate::testing::{close, open, tenant};
use crate::{ContainerRecord, Durability, RuntimeRef, SandboxRecord, TypedBytes};
use windlass_model::Kind;

#[tokio::test]
async fn a_second_core_on_the_same_root_is_refused() {
    let (folder, tenant, _) = tenant().await;
    let refused = open(folder.path()).await.err().unwrap();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert!(refused.to_string().contains("another daemon"), "{refused}");
    close(tenant).await;
    open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn records_and_numbers_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let id: Id = "c1".parse().unwrap();
    let mut last = 0;
    for round in 0..3 {
        let (core, _) = open(folder.path()).await.unwrap();
        let tenant = core.tenant("test".parse().unwrap());
        let mut listener = core.events().subscribe();
        if round == 0 {
            let mut record = ContainerRecord::new(id.clone());
            record.runtime = RuntimeRef {
                name: "runc".into(),
                options: Some(TypedBytes { type_url: "x".into(), value: vec![0, 255, 10] }),
            };
            record.sandbox = Some("pod".parse().unwrap());
            tenant.containers().create(record, Durability::Crash).await.unwrap();
        }
        let containers = tenant.containers();
        let update = containers.update(&id, Durability::Crash, move |record| {
            record.labels.insert(format!("round{round}"), "x".into());
            Ok(())
        });
        let record = update.await.unwrap();
        assert_eq!(record.labels.len(), round + 1);
        assert_eq!(record.runtime.options.as_ref().unwrap().value, [0, 255, 10]);
        assert_eq!(containers.get(&id).await.unwrap(), record);
        assert_eq!(containers.list().await.unwrap(), [record]);
        drop(containers);
        let Some(Received::Event(told)) = listener.recv().await else { panic!("no event") };
        assert!(told.sequence > last);
        last = told.sequence;
        drop(core);
        close(tenant).await;
    }
}

#[tokio::test]
async fn changes_of_records_are_checked() {
    let (_folder, tenant, _) = tenant().await;
    let (containers, id) = (tenant.containers(), "c".parse::<Id>().unwrap());
    assert!(containers.get(&id).await.unwrap_err().is_not_found());
    assert!(containers.delete(&id, Durability::Crash).await.unwrap_err().is_not_found());
    let made = containers.create(ContainerRecord::new(id.clone()), Durability::Power).await.unwrap();
    let twice = containers.create(made.clone(), Durability::Crash).await.unwrap_err();
    assert_eq!(twice.kind(), Kind::AlreadyExists);
    let renamed = containers.update(&id, Durability::Crash, |record| {
        record.id = "other".parse()?;
        Ok(())
    });
    assert_eq!(renamed.await.unwrap_err().kind(), Kind::InvalidArgument);
    let labelled = containers.update(&id, Durability::Crash, |record| {
        record.labels.insert("x".repeat(4000), "y".repeat(97));
        Ok(())
    });
    assert_eq!(labelled.await.unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(containers.get(&id).await.unwrap(), made);
    containers.delete(&id, Durability::Crash).await.unwrap();
    assert!(containers.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let (_folder, tenant, _) = tenant().await;
    let other = tenant.core().tenant("test.other".parse().unwrap());
    let id: Id = "s".parse().unwrap();
    tenant.sandboxes().create(SandboxRecord::new(id.clone()), Durability::Crash).await.unwrap();
    assert!(other.sandboxes().get(&id).await.unwrap_err().is_not_found());
    assert!(other.sandboxes().list().await.unwrap().is_empty());
    other.sandboxes().create(SandboxRecord::new(id.clone()), Durability::Crash).await.unwrap();
    assert_eq!(tenant.sandboxes().list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn namespaces_spring_up_and_go_only_when_empty() {
    let (_folder, tenant, _) = tenant().await;
    let (namespaces, name) = (tenant.core().namespaces(), tenant.namespace().clone());
    assert!(namespaces.get(&name).await.unwrap_err().is_not_found());
    let id: Id = "s".parse().unwrap();
    tenant.sandboxes().create(SandboxRecord::new(id.clone()), Durability::Crash).await.unwrap();
    let labelled = namespaces.update(&name, |labels| drop(labels.insert("a".into(), "b".into()))).await.unwrap();
    assert_eq!(namespaces.list().await.unwrap().into_iter().collect::<Vec<_>>(), [(name.clone(), labelled)]);
    let refused = namespaces.delete(&name).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert!(refused.to_string().contains("sandboxes"), "{refused}");
    tenant.sandboxes().delete(&id, Durability::Crash).await.unwrap();
    namespaces.delete(&name).await.unwrap();
    assert!(namespaces.delete(&name).await.unwrap_err().is_not_found());
    namespaces.create(&name, Default::default()).await.unwrap();
    assert_eq!(namespaces.create(&name, Default::default()).await.unwrap_err().kind(), Kind::AlreadyExists);
}

#[tokio::test]
async fn a_slow_listener_is_told_what_it_missed() {
    let (_folder, tenant, _) = tenant().await;
    let mut listener = tenant.events().subscribe();
    for _ in 0..5000 {
        let event = windlass_model::event::Event::NamespaceUpdate { name: "x".into(), labels: Default::default() };
        tenant.events().publish(tenant.namespace(), event);
    }
    // They are told when they are kept.
    tenant.events().settle().await.unwrap();
    let Some(Received::Lagged(missed)) = listener.recv().await else { panic!("nothing was missed") };
    assert_eq!(missed, 5000 - 4096);
    assert!(matches!(listener.recv().await, Some(Received::Event(_))));
}
