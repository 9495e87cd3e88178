//! The IPAddressPools that there are, and those that are announced from.

use std::collections::BTreeMap;
use std::time::Instant;

use kube::ResourceExt;
use metallb_api::IPAddressPool;
use metallb_core::config::Pool;
use metallb_core::served::{self, LatelyGone};

use super::inputs::{named, take};
use crate::watch::{Change, Unreadable};

/// As the controller does: what it goes on giving out, or leaves to Services, is to be announced.
pub(super) struct Pools {
    objects: BTreeMap<String, IPAddressPool>,
    lately_gone: LatelyGone,
    began: Instant,
}

impl Pools {
    /// No pools at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { objects: BTreeMap::new(), lately_gone: LatelyGone::default(), began: now }
    }

    /// The objects as they are.
    pub(super) fn objects(&self) -> impl Iterator<Item = &IPAddressPool> {
        self.objects.values()
    }

    /// Takes news of the objects at `now`; tells whether more than statuses has changed.
    pub(super) fn take(&mut self, news: Result<Change<IPAddressPool>, Unreadable>, now: Instant) -> bool {
        let doubted = match &news {
            Ok(Change::All(_)) => Some(false),
            Err(Unreadable) => Some(true),
            Ok(_) => None,
        };
        if let Some(doubted) = doubted {
            self.lately_gone.doubt(doubted, now - self.began);
        }
        let Ok(change) = news else { return false };
        if is_status_alone(&self.objects, &change) {
            return false;
        }
        take(&mut self.objects, change, named);
        true
    }

    /// The pools to announce from at `now`, of those that were `read` from the objects.
    pub(super) fn serve(&mut self, read: BTreeMap<String, Pool>, now: Instant) -> BTreeMap<String, Pool> {
        let mut pools = read;
        served::keep(&mut pools, self.objects.values(), self.lately_gone.served());
        self.lately_gone.join(pools, now - self.began)
    }

    /// When [`Pools::serve`] is to be called though nothing changes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lately_gone.deadline().map(|deadline| self.began + deadline)
    }
}

/// Whether a change is of a status alone: the controller writes those of pools, and nothing follows of them here.
fn is_status_alone(pools: &BTreeMap<String, IPAddressPool>, change: &Change<IPAddressPool>) -> bool {
    let Change::Set(pool) = change else { return false };
    let former = pools.get(&pool.name_any());
    former.is_some_and(|former| former.spec == pool.spec && former.metadata.labels == pool.metadata.labels)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metallb_core::allocator::GRACE;
    use serde_json::{Value, json};

    use super::*;

    fn pool(name: &str, changes: &[(&str, Value)]) -> IPAddressPool {
        let mut object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": { "name": name, "resourceVersion": "1" }, "spec": { "addresses": ["192.0.2.0/24"] },
        });
        for (pointer, value) in changes {
            let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
            object.pointer_mut(parent).expect("a parent")[field] = value.clone();
        }
        serde_json::from_value(object).expect("a pool")
    }

    #[test]
    fn the_status_of_a_pool_is_no_configuration() {
        let known = BTreeMap::from([named(pool("main", &[]))]);
        let status =
            json!({ "assignedIPv4": 1, "assignedIPv6": 0, "availableIPv4": 255, "availableIPv6": 0 });
        let written = [("/metadata/resourceVersion", json!("2")), ("/status", status)];
        for (what, change, alone) in [
            ("a status", Change::Set(pool("main", &written)), true),
            ("a spec", Change::Set(pool("main", &[("/spec/addresses", json!(["192.0.2.0/25"]))])), false),
            ("a label", Change::Set(pool("main", &[("/metadata/labels", json!({ "zone": "a" }))])), false),
            ("a new pool", Change::Set(pool("other", &[])), false),
            ("a pool that goes", Change::Gone(pool("main", &[])), false),
        ] {
            assert_eq!(is_status_alone(&known, &change), alone, "{what}");
        }
    }
    #[test]
    fn a_pool_that_went_is_announced_from_until_its_time_is_over_or_longer_where_nobody_can_tell() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut pools = Pools::new(began);
        let serve = |pools: &mut Pools, seconds| -> Vec<String> {
            let objects: Vec<_> = pools.objects().cloned().collect();
            let (read, _) = served::serve(&objects.iter().collect::<Vec<_>>(), &BTreeMap::new());
            pools.serve(read, at(seconds)).into_keys().collect()
        };
        assert!(pools.take(Ok(Change::All(vec![pool("main", &[])])), at(0)));
        assert_eq!(serve(&mut pools, 0), ["main"]);
        assert!(pools.take(Ok(Change::Gone(pool("main", &[]))), at(100)));
        assert_eq!(serve(&mut pools, 100), ["main"]);
        assert_eq!(pools.deadline(), Some(at(100) + GRACE));
        // Its kind is deleted, and comes back without the pool.
        assert!(!pools.take(Err(Unreadable), at(101)));
        assert_eq!((pools.deadline(), serve(&mut pools, 500)), (None, vec!["main".to_owned()]));
        assert!(pools.take(Ok(Change::All(vec![])), at(600)));
        assert_eq!(serve(&mut pools, 600), ["main"]);
        assert_eq!(pools.deadline(), Some(at(600) + GRACE));
        assert_eq!(serve(&mut pools, 610), Vec::<String>::new());
        assert_eq!(pools.deadline(), None);
    }
}
