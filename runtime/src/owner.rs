//! The object that others go with: once it is deleted, the garbage collector deletes what names it as its owner.
//!
//! What is made after that would be left behind. A program that has seen its owner therefore makes nothing for a while
//! once the owner is gone: it is most likely about to end, because it was installed with it. If it goes on all the same,
//! it was meant to, and then makes things that go with nobody.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client, ResourceExt,
    core::{ApiResource, DynamicObject},
};
use tokio::sync::Mutex;

use crate::lease::boottime;

/// For how long nothing is made once the owner is gone; programs that were installed with it have ended by then.
const LEAVING: Duration = Duration::from_secs(60);

/// What is known of an owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// It is there.
    There(OwnerReference),
    /// There is none, or it may not be read: what is made goes with nobody.
    Nobody,
    /// It was there a short while ago: nothing is to be made now.
    Gone,
}

/// An object that others go with.
pub struct Owner {
    api: Api<DynamicObject>,
    resource: ApiResource,
    name: String,
    seen: Mutex<Seen>,
}

/// What was seen of it before.
#[derive(Debug, Default)]
struct Seen {
    /// Whether it was looked for.
    asked: bool,
    /// Whether it was there.
    there: bool,
    /// Since when it is not.
    gone: Option<Duration>,
}

impl Seen {
    /// Takes in at `now` what was found.
    fn take(&mut self, found: Option<OwnerReference>, now: Duration) -> Known {
        self.asked = true;
        if let Some(owner) = found {
            (self.there, self.gone) = (true, None);
            return Known::There(owner);
        }
        if !self.there {
            return Known::Nobody;
        }
        let since = *self.gone.get_or_insert(now);
        if now < since + LEAVING {
            return Known::Gone;
        }
        (self.there, self.gone) = (false, None);
        Known::Nobody
    }
}

impl Owner {
    /// The object `name` of kind `resource` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, resource: ApiResource, name: &str) -> Self {
        Self {
            api: Api::namespaced_with(client, namespace, &resource),
            resource,
            name: name.to_owned(),
            seen: Mutex::default(),
        }
    }

    /// Looks for it once, so that it is known later on that it was there.
    ///
    /// # Errors
    /// When the API server cannot be asked: then it is looked for the next time.
    pub async fn learn(&self) -> kube::Result<()> {
        let is_known = self.seen.lock().await.asked;
        if !is_known {
            self.find().await?;
        }
        Ok(())
    }

    /// Looks for it now.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn find(&self) -> kube::Result<Known> {
        let found = match self.api.get_metadata_opt(&self.name).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => return Ok(Known::Nobody),
            found => found?.filter(|object| object.metadata.deletion_timestamp.is_none()),
        };
        let reference = found.map(|object| OwnerReference {
            api_version: self.resource.api_version.clone(),
            kind: self.resource.kind.clone(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            ..OwnerReference::default()
        });
        Ok(self.seen.lock().await.take(reference, boottime()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_the_owner_is_gone_nothing_is_made_until_everybody_had_time_to_end() {
        let owner = OwnerReference { uid: "u".to_owned(), ..OwnerReference::default() };
        let mut seen = Seen::default();
        let story = [
            (0, None, Known::Nobody),
            (1, Some(&owner), Known::There(owner.clone())),
            (10, None, Known::Gone),
            (69, None, Known::Gone),
            (70, None, Known::Nobody),
            (71, None, Known::Nobody),
            (80, Some(&owner), Known::There(owner.clone())),
            (90, None, Known::Gone),
            (91, Some(&owner), Known::There(owner.clone())),
            (200, None, Known::Gone),
        ];
        for (at, found, want) in story {
            assert_eq!(seen.take(found.cloned(), Duration::from_secs(at)), want, "at {at}");
        }
    }
}
