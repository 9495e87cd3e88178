//! Which pools are served while some of their objects are wrong.

use std::collections::BTreeMap;

use metallb_api::IPAddressPool;

use crate::config::{Objects, Pool, Problem, parse};

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
        let overlaps = |pool: &Pool| pool.ranges.iter().any(|a| last.ranges.iter().any(|b| a.overlaps(b)));
        if !pools.values().any(overlaps) {
            pools.insert(name.clone(), last.clone());
        }
    }
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
}
