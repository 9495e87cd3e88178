//! Which pools are served while some of their objects are wrong.

use std::{collections::BTreeMap, time::Duration};

use metallb_api::IPAddressPool;

use crate::{
    allocator::GRACE,
    config::{Objects, Pool, Problem, parse},
    range::AddressRange,
};

/// Reads the pools. An object that became wrong goes on being served as it was `before`, unless that overlaps a pool
/// which is right: a mistake in an edit takes no address away.
#[must_use]
pub fn serve(
    objects: &[&IPAddressPool],
    before: &BTreeMap<String, Pool>,
) -> (BTreeMap<String, Pool>, Vec<Problem>) {
    let (config, problems) = parse(&Objects { pools: objects.to_vec(), ..Objects::default() });
    let mut pools = config.pools;
    keep(&mut pools, objects.iter().copied(), before);
    (pools, problems)
}

/// Adds to the pools that were read from `objects` those that [`serve`] leaves as they were.
pub fn keep<'a>(
    pools: &mut BTreeMap<String, Pool>,
    objects: impl IntoIterator<Item = &'a IPAddressPool>,
    before: &BTreeMap<String, Pool>,
) {
    for name in objects.into_iter().filter_map(|object| object.metadata.name.as_ref()) {
        let Some(last) = before.get(name).filter(|_| !pools.contains_key(name)) else { continue };
        if !overlaps(pools, &last.ranges) {
            pools.insert(name.clone(), last.clone());
        }
    }
}

/// Pools that went a short time ago. What Services hold of them is announced for as long as it stays theirs in case
/// the pool comes back ([`GRACE`]). `now` is any clock that does not go back.
#[derive(Clone, Debug, Default)]
pub struct LatelyGone {
    /// The pools as they were served last.
    served: BTreeMap<String, Pool>,
    /// Until when each is remembered.
    gone: BTreeMap<String, (Duration, Pool)>,
    /// Nobody knows which pools there are: none is forgotten.
    suspended: bool,
}

impl LatelyGone {
    /// The pools as they were served last, those that went aside.
    #[must_use]
    pub fn served(&self) -> &BTreeMap<String, Pool> {
        &self.served
    }

    /// Takes the pools as they are `served` at `now`; returns them with those that went a short time ago. Of the latter
    /// that is left which no other pool has.
    pub fn join(&mut self, served: BTreeMap<String, Pool>, now: Duration) -> BTreeMap<String, Pool> {
        for (name, pool) in std::mem::replace(&mut self.served, served) {
            self.gone.insert(name, (now.saturating_add(GRACE), pool));
        }
        let suspended = self.suspended;
        self.gone.retain(|name, (until, _)| !self.served.contains_key(name) && (suspended || *until > now));
        let mut pools = self.served.clone();
        for (name, (_, pool)) in &self.gone {
            let is_left = |range: &AddressRange| !overlaps(&self.served, std::slice::from_ref(range));
            let ranges = pool.ranges.iter().copied().filter(is_left).collect();
            pools.insert(name.clone(), Pool { ranges, ..pool.clone() });
        }
        pools
    }

    /// Says at `now` whether the pools cannot be read: then none is forgotten, and afterwards each is remembered anew.
    pub fn doubt(&mut self, doubted: bool, now: Duration) {
        if self.suspended && !doubted {
            for (until, _) in self.gone.values_mut() {
                *until = now.saturating_add(GRACE);
            }
        }
        self.suspended = doubted;
    }

    /// When the next of them is to be forgotten: [`LatelyGone::join`] is to be called then.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let ends = self.gone.values().map(|(until, _)| *until);
        ends.min().filter(|_| !self.suspended)
    }
}

/// Whether any of `ranges` overlaps one of the pools.
fn overlaps(pools: &BTreeMap<String, Pool>, ranges: &[AddressRange]) -> bool {
    let mut others = pools.values().flat_map(|pool| &pool.ranges);
    others.any(|other| ranges.iter().any(|range| range.overlaps(other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use metallb_api::IPAddressPoolSpec;

    fn object(name: &str, addresses: &[&str]) -> IPAddressPool {
        let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
        IPAddressPool::new(name, IPAddressPoolSpec { addresses, ..IPAddressPoolSpec::default() })
    }

    fn ranges(pools: &BTreeMap<String, Pool>) -> Vec<(&str, String)> {
        pools.iter().map(|(name, pool)| (name.as_str(), pool.ranges[0].to_string())).collect()
    }

    #[test]
    fn a_mistake_in_an_edit_leaves_the_pool_as_it_was() {
        let good = [object("a", &["192.0.2.0/28"]), object("b", &["192.0.2.16/28"])];
        let (before, problems) = serve(&good.iter().collect::<Vec<_>>(), &BTreeMap::new());
        assert_eq!((ranges(&before).len(), problems.len()), (2, 0));

        let bad = [object("a", &["192.0.2.0/280"]), object("b", &["192.0.2.32/28"])];
        let (served, problems) = serve(&bad.iter().collect::<Vec<_>>(), &before);
        assert_eq!(ranges(&served), [("a", "192.0.2.0/28".into()), ("b", "192.0.2.32/28".into())]);
        assert_eq!(problems.len(), 1);

        let taken_over = [object("a", &["nonsense"]), object("b", &["192.0.2.0/24"])];
        let (served, _) = serve(&taken_over.iter().collect::<Vec<_>>(), &before);
        assert_eq!(ranges(&served), [("b", "192.0.2.0/24".into())]);

        let (served, _) = serve(&[&good[1]], &before);
        assert_eq!(ranges(&served), [("b", "192.0.2.16/28".into())], "a deleted pool is gone");
    }

    #[test]
    fn a_pool_that_went_is_announced_for_a_while() {
        let at = Duration::from_secs;
        let (a, b) = (object("a", &["192.0.2.0/28"]), object("b", &["192.0.2.16/28"]));
        let read = |objects: &[&IPAddressPool]| serve(objects, &BTreeMap::new()).0;
        let (both, one) = (read(&[&a, &b]), read(&[&b]));
        let mut gone = LatelyGone::default();
        let mut join =
            |pools: &BTreeMap<String, Pool>, time| (gone.join(pools.clone(), at(time)), gone.deadline());
        assert_eq!(join(&both, 0), (both.clone(), None));
        assert_eq!(join(&one, 100), (both.clone(), Some(at(100) + GRACE)), "it went");
        assert_eq!(join(&one, 109), (both.clone(), Some(at(100) + GRACE)), "another edit is no delay");
        assert_eq!(join(&both, 109), (both.clone(), None), "it is back");
        assert_eq!(join(&one, 200), (both.clone(), Some(at(200) + GRACE)), "it went again");
        assert_eq!(join(&one, 210), (one.clone(), None), "for good");
        assert_eq!(join(&one, 211), (one.clone(), None));
    }

    #[test]
    fn of_a_pool_that_went_that_is_left_which_no_other_has() {
        let objects = [object("a", &["192.0.2.0/28", "192.0.2.32/28"]), object("b", &["192.0.2.0/28"])];
        let read = |object: &IPAddressPool| serve(&[object], &BTreeMap::new()).0;
        let mut gone = LatelyGone::default();
        gone.join(read(&objects[0]), Duration::ZERO);
        let then = gone.join(read(&objects[1]), Duration::from_secs(1));
        assert_eq!(ranges(&then), [("a", "192.0.2.32/28".into()), ("b", "192.0.2.0/28".into())]);
        assert_eq!(ranges(gone.served()), [("b", "192.0.2.0/28".into())]);
    }

    #[test]
    fn while_pools_cannot_be_read_none_is_forgotten() {
        let at = Duration::from_secs;
        let all = serve(&[&object("a", &["192.0.2.0/28"])], &BTreeMap::new()).0;
        let mut gone = LatelyGone::default();
        gone.join(all.clone(), at(0));
        gone.join(BTreeMap::new(), at(100));
        gone.doubt(true, at(101));
        assert_eq!((gone.deadline(), gone.join(BTreeMap::new(), at(900))), (None, all.clone()));
        gone.doubt(false, at(1000));
        assert_eq!(gone.deadline(), Some(at(1000) + GRACE));
        assert_eq!(gone.join(BTreeMap::new(), at(1009)), all);
        assert_eq!(gone.join(BTreeMap::new(), at(1010)), BTreeMap::new());
    }
}
