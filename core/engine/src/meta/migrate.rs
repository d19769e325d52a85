//! Brings a database of an earlier layout to this one, step by step, and refuses one of a later layout.

use windlass_model::{Error, Result};

use super::schema::{SETTINGS, VERSION, setting};
use super::{Db, Durability, Reader, Tx};

/// One step: rewrites the records of layout `n` as layout `n + 1`.
type Step = fn(&mut Tx<'_>) -> Result<()>;

/// `STEPS[0]` leads from layout 1 to layout 2, and so on. Steps are only ever added.
const STEPS: &[Step] = &[];

const _: () = assert!(STEPS.len() as u64 + 1 == VERSION);

/// Runs the missing steps, each in one batch with its new version number.
///
/// # Errors
/// [`windlass_model::Kind::FailedPrecondition`] where a later version of the program wrote the database.
pub(super) async fn run(db: &Db) -> Result<()> {
    run_steps(db, STEPS).await
}

async fn run_steps(db: &Db, steps: &'static [Step]) -> Result<()> {
    let newest = steps.len() as u64 + 1;
    let name = || setting::SCHEMA.to_owned();
    let found = db.view().find(&SETTINGS, &name())?;
    let Some(mut version) = found else {
        return db.update(Durability::Power, move |tx| tx.put(&SETTINGS, &name(), &newest)).await;
    };
    if version > newest || version == 0 {
        return Err(Error::precondition(format!(
            "the database has layout {version}, this program knows layouts 1 to {newest}: it was written by a later version"
        )));
    }
    while version < newest {
        let step = steps[(version - 1) as usize];
        version += 1;
        tracing::info!(version, "migrating the database");
        db.update(Durability::Power, move |tx| {
            step(tx)?;
            tx.put(&SETTINGS, &name(), &version)
        })
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_model::Kind;

    async fn database(folder: &std::path::Path, version: Option<u64>) -> Db {
        let db = Db::open_raw(folder).unwrap();
        if let Some(version) = version {
            db.update(Durability::Crash, move |tx| tx.put(&SETTINGS, &setting::SCHEMA.into(), &version)).await.unwrap();
        }
        db
    }

    #[tokio::test]
    async fn a_later_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let db = database(folder.path(), Some(VERSION + 1)).await;
        let error = run(&db).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("later version"), "{error}");
    }

    #[tokio::test]
    async fn steps_run_in_order_and_once() {
        const TRAIL: &str = "trail";
        fn append(tx: &mut Tx<'_>, digit: u64) -> Result<()> {
            let trail = tx.find(&SETTINGS, &TRAIL.to_owned())?.unwrap_or(0);
            tx.put(&SETTINGS, &TRAIL.into(), &(trail * 10 + digit))
        }
        const TWO: &[Step] = &[|tx| append(tx, 1), |tx| append(tx, 2)];
        let folder = tempfile::tempdir().unwrap();
        let db = database(folder.path(), Some(1)).await;
        run_steps(&db, TWO).await.unwrap();
        run_steps(&db, TWO).await.unwrap();
        assert_eq!(db.view().find(&SETTINGS, &TRAIL.into()).unwrap(), Some(12));
        assert_eq!(db.view().find(&SETTINGS, &setting::SCHEMA.into()).unwrap(), Some(3));
    }

    #[tokio::test]
    async fn a_new_database_starts_at_the_newest_layout() {
        let folder = tempfile::tempdir().unwrap();
        let db = database(folder.path(), None).await;
        run(&db).await.unwrap();
        assert_eq!(db.view().find(&SETTINGS, &setting::SCHEMA.into()).unwrap(), Some(VERSION));
    }
}
