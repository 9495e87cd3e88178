//! The webhooks' certificate: when one is made, and how the server gets it.

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    certificate::{self, Material, Need},
    kinds::{ADMISSIONS, Kind, WEBHOOK_SERVICE},
    plan,
    settings::Settings,
    webhook::Identity,
    world::{Source, World},
};

/// Where the webhooks' certificate comes from.
pub enum Certificates {
    /// The operator makes it; what is in the Secret goes here.
    Own(watch::Sender<Option<Identity>>),
    /// Somebody else mounts it into the pod.
    Given,
}

impl Certificates {
    /// Hands the certificate to the webhooks.
    pub(super) fn identify(&self, world: &World, settings: &Settings) {
        let Self::Own(sender) = self else { return };
        let Some(material) = plan::material(world, settings) else { return };
        let seen = ADMISSIONS.iter().all(|kind| world.complete(Source::Objects(*kind)));
        let identity = Identity {
            is_published: seen && plan::is_published(world, settings, &material.bundle),
            certificate: material.certificate,
            key: material.key,
        };
        sender.send_if_modified(|before| {
            let differs = before.as_ref() != Some(&identity);
            *before = Some(identity);
            differs
        });
    }

    /// A certificate to be written, if one is due, and when to look again.
    pub(super) fn certify(
        &self,
        world: &World,
        settings: &Settings,
        now: Timestamp,
    ) -> (Option<Material>, Option<Timestamp>) {
        let sources = [Kind::Certificate].into_iter().chain(ADMISSIONS);
        let seen = sources.map(Source::Objects).all(|source| world.complete(source));
        if !seen || matches!(self, Self::Given) {
            return (None, None);
        }
        let material = plan::material(world, settings);
        let bundle = material.as_ref().map(|material| material.bundle.as_str()).unwrap_or_default();
        let is_published = plan::is_published(world, settings, bundle);
        let Some(need) = certificate::need(material.as_ref(), is_published, now) else {
            return (None, material.as_ref().map(certificate::next_need).filter(|time| *time > now));
        };
        let names = certificate::names(WEBHOOK_SERVICE, &settings.namespace);
        let issued = certificate::issue(need, material.as_ref(), &names, now)
            .or_else(|error| {
                tracing::warn!(%error, "the authority's key cannot be used: another authority is made");
                certificate::issue(Need::All, None, &names, now)
            })
            .inspect_err(|error| tracing::error!(%error, "no certificate can be made"));
        (issued.ok(), None)
    }
}
