//! Pull by transfer: of one machine's image or of several, unpacked by none, one or several drivers.

use windlass_engine::images::{Naming, PullRequest};
use windlass_model::{LeaseId, Platform, Reference, Result};

use super::Job;
use super::places::{Registry, Store};

/// A pull during which no byte comes for so long is given up.
const PROGRESS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(300);

impl Job {
    pub(super) async fn pull(&self, registry: Registry, store: Store) -> Result<()> {
        let reference: Reference = registry.reference.parse()?;
        let access = self.access(&registry).await?;
        let platforms = match &store.platforms {
            named if !named.is_empty() => named.clone(),
            _ => self.tenant.images().platforms_at(&reference, access.clone()).await?,
        };
        let platforms = if platforms.is_empty() { vec![Platform::host()] } else { platforms };
        let parts: Vec<(Platform, Option<String>)> =
            platforms.into_iter().flat_map(|platform| unpacked(platform, &store.unpacks)).collect();
        let names = Naming::Names(store.names()?);
        let request =
            |(platform, unpack): (Platform, Option<String>), last: bool, lease: Option<LeaseId>| PullRequest {
                access: access.clone(),
                platform,
                unpack,
                naming: if last { names.clone() } else { Naming::Names(Vec::new()) },
                progress_timeout: PROGRESS_TIMEOUT,
                lease,
                reporter: self.reporter.clone(),
                stop: self.stop.clone(),
                ..PullRequest::new(reference.clone())
            };
        let mut parts = parts.into_iter().peekable();
        let Some(first) = parts.next() else { return Ok(()) };
        if parts.peek().is_none() {
            return self.tenant.images().pull(request(first, true, self.lease.clone())).await.map(drop);
        }
        // The image has no name before all of it is there; a lease holds the parts until then.
        let lease: LeaseId = format!("transfer-{}", uuid::Uuid::new_v4()).parse()?;
        self.tenant.leases().create_for_a_day(&lease).await?;
        let mut next = Some(first);
        let mut outcome = Ok(());
        while let (Some(part), Ok(())) = (next.take(), &outcome) {
            next = parts.next();
            let (last, holder) = (next.is_none(), Some(lease.clone()));
            outcome = self.tenant.images().pull(request(part, last, holder)).await.map(drop);
        }
        let ended = self.tenant.leases().delete(&lease).await;
        outcome.and(ended)
    }
}

/// A platform with each driver that it is unpacked with.
fn unpacked(platform: Platform, unpacks: &[(Platform, String)]) -> Vec<(Platform, Option<String>)> {
    let drivers: Vec<_> =
        unpacks.iter().filter(|(wanted, _)| wanted.accepts(&platform)).map(|(_, driver)| driver).collect();
    match drivers.as_slice() {
        [] => vec![(platform, None)],
        drivers => drivers.iter().map(|driver| (platform.clone(), Some((*driver).clone()))).collect(),
    }
}
