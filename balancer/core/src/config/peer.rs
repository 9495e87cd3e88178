//! BGPPeer: a router to which addresses are announced.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use metallb_api as api;

use super::bfd::BfdProfile;
use super::duration;
use super::problem::Findings;
use crate::selector::AnyOf;

/// A router and the session with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name of the BGPPeer.
    pub name: String,
    /// AS number of this end.
    pub my_asn: u32,
    /// AS number to show to the router in the place of `my_asn`.
    pub local_asn: Option<u32>,
    /// Which AS number the router must have.
    pub remote_asn: RemoteAsn,
    /// Where the router is.
    pub endpoint: Endpoint,
    /// TCP port of the router.
    pub port: u16,
    /// Address from which the session is opened.
    pub source: Option<IpAddr>,
    /// Timers to ask for; `None` leaves them to the program.
    pub timers: Option<Timers>,
    /// Time between attempts to connect: 1 to 65535 whole seconds.
    pub connect_time: Option<Duration>,
    /// BGP identifier of this end (RFC 4271 §4.2).
    pub router_id: Option<Ipv4Addr>,
    /// Nodes that peer.
    pub nodes: AnyOf,
    /// Where the password of the TCP MD5 signature (RFC 2385) is.
    pub password: Option<Password>,
    /// Name of the BfdProfile; one of the configuration's.
    pub bfd_profile: Option<String>,
    /// Whether routes survive a restart of the session (RFC 4724).
    pub graceful_restart: bool,
    /// Whether the router of another AS is more than one hop away.
    pub ebgp_multi_hop: bool,
    /// VRF of the node in which the router is reached.
    pub vrf: Option<String>,
    /// Whether both families are exchanged over the one session.
    pub dual_stack: bool,
    /// How many hops away the router may be (GTSM, RFC 5082): 1 to 254.
    pub ttl_security_hops: Option<u8>,
    /// Whether this end waits for the router to connect.
    pub passive: bool,
    /// The most prefixes that the router may announce.
    pub max_prefixes: Option<u32>,
}

impl Peer {
    /// Whether the router is of another AS; where any number is taken, as far as that says it.
    #[must_use]
    pub fn is_external(&self) -> bool {
        match self.remote_asn {
            RemoteAsn::Number(asn) => asn != self.local_asn.unwrap_or(self.my_asn),
            RemoteAsn::Internal => false,
            RemoteAsn::External => true,
        }
    }

    /// How far away the router may be.
    #[must_use]
    pub fn distance(&self) -> Distance {
        match self.ttl_security_hops {
            Some(1) => Distance::OneHop,
            Some(_) => Distance::ManyHops,
            None if self.ebgp_multi_hop => Distance::ManyHops,
            None if self.is_external() => Distance::OneHop,
            None => Distance::AsFound,
        }
    }

    /// Whether BFD echo packets can go to the router and come back: not across routers, and not from link-local addresses,
    /// which are forwarded to nowhere (RFC 5881 §4). Within one AS, only where the router turns out to be on a link.
    #[must_use]
    pub fn takes_echo(&self) -> bool {
        let is_forwarded_to = match self.endpoint {
            Endpoint::Address(IpAddr::V6(v6)) => !v6.is_unicast_link_local(),
            Endpoint::Address(IpAddr::V4(_)) => true,
            Endpoint::Interface(_) => false,
        };
        is_forwarded_to && self.distance() != Distance::ManyHops
    }
}

/// How far away a router may be, which makes BFD with it single hop (RFC 5881) or multihop (RFC 5883).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// On a link of the node.
    OneHop,
    /// Behind other routers.
    ManyHops,
    /// Either, as it is within one AS: what the addresses of the connection tell.
    AsFound,
}

impl Distance {
    /// Whether BFD is multihop, where the router is `on_link` of the node or not. FRR decides in the same way.
    #[must_use]
    pub fn is_multihop(self, on_link: bool) -> bool {
        match self {
            Self::OneHop => false,
            Self::ManyHops => true,
            Self::AsFound => !on_link,
        }
    }
}

/// Which AS number a router must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteAsn {
    /// This one.
    Number(u32),
    /// That of this end.
    Internal,
    /// Any but that of this end.
    External,
}

/// Where a router is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// At this address.
    Address(IpAddr),
    /// At the other end of this interface (BGP unnumbered).
    Interface(String),
}

/// Hold and keepalive time (RFC 4271 §4.2, §4.4). A hold time of zero is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// 0, or 3 to 65535 seconds.
    pub hold: Duration,
    /// Not more than `hold`; zero leaves it to the program.
    pub keepalive: Duration,
}

/// Where a password is.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// Here.
    Plain(String),
    /// In the Secret of this name, of type `kubernetes.io/basic-auth`, in MetalLB's namespace.
    Secret(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(..)"),
            Self::Secret(name) => f.debug_tuple("Secret").field(name).finish(),
        }
    }
}

/// The greatest hold time that an OPEN can carry (RFC 4271 §4.2), and of a connect time.
const LONGEST: Duration = Duration::from_secs(u16::MAX as u64);

/// The most octets that Linux takes of a password (`TCP_MD5SIG_MAXKEYLEN`; RFC 2385 §4.5 wants no fewer).
pub const LONGEST_PASSWORD: usize = 80;

/// Port that stands for none in v1beta1, where 0 is allowed.
const DEFAULT_PORT: u16 = 179;

pub(super) fn parse(
    object: &api::BGPPeer,
    profiles: &BTreeMap<String, BfdProfile>,
    findings: &mut Findings,
) -> Peer {
    let spec = &object.spec;
    if spec.my_asn == 0 {
        findings.add("spec.myASN", "must not be 0");
    }
    let multi_hop = spec.ebgp_multi_hop.unwrap_or(false);
    if multi_hop && spec.peer_asn == Some(spec.my_asn) {
        findings.add("spec.ebgpMultiHop", "can only be set for a router of another AS");
    }
    let bfd_profile = given(spec.bfd_profile.as_ref());
    if let Some(profile) = bfd_profile.as_ref().filter(|name| !profiles.contains_key(*name)) {
        findings.unresolved("spec.bfdProfile", format_args!("no usable BFDProfile {profile:?}"));
    }
    Peer {
        name: findings.name().to_owned(),
        my_asn: spec.my_asn,
        local_asn: spec.local_asn,
        remote_asn: remote_asn(spec, findings),
        endpoint: endpoint(spec, findings),
        port: if spec.peer_port == 0 { DEFAULT_PORT } else { spec.peer_port },
        source: address("spec.sourceAddress", spec.source_address.as_ref(), findings),
        timers: timers(spec, findings),
        connect_time: connect_time(spec, findings),
        router_id: address("spec.routerID", spec.router_id.as_ref(), findings),
        nodes: findings.any_of("spec.nodeSelectors", &spec.node_selectors),
        password: password(spec, findings),
        bfd_profile,
        graceful_restart: spec.enable_graceful_restart.unwrap_or(false),
        ebgp_multi_hop: multi_hop,
        vrf: given(spec.vrf.as_ref()),
        dual_stack: spec.dual_stack_address_family,
        ttl_security_hops: ttl_security_hops(spec, findings),
        passive: spec.passive.unwrap_or(false),
        max_prefixes: spec.max_prefixes,
    }
}

fn ttl_security_hops(spec: &api::BGPPeerSpec, findings: &mut Findings) -> Option<u8> {
    let value = spec.ttl_security_hops?;
    let hops = u8::try_from(value).ok().filter(|hops| (1..=254).contains(hops));
    if hops.is_none() {
        findings.add("spec.ttlSecurityHops", format_args!("{value} is not in the range 1 to 254"));
    }
    if spec.ebgp_multi_hop == Some(true) {
        findings.add("spec.ttlSecurityHops", "cannot be set together with ebgpMultiHop");
    }
    hops
}

/// The text, unless it is empty, which is the same as none.
fn given(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

fn remote_asn(spec: &api::BGPPeerSpec, findings: &mut Findings) -> RemoteAsn {
    let number = spec.peer_asn.filter(|asn| *asn != 0);
    match (number, spec.dynamic_asn) {
        (Some(asn), None) => RemoteAsn::Number(asn),
        (None, Some(api::DynamicAsn::Internal)) => RemoteAsn::Internal,
        (None, Some(api::DynamicAsn::External)) => RemoteAsn::External,
        (None, None) => {
            findings.add("spec.peerASN", "either peerASN or dynamicASN is needed");
            RemoteAsn::External
        }
        (Some(_), Some(_)) => {
            findings.add("spec.dynamicASN", "cannot be set together with peerASN");
            RemoteAsn::External
        }
    }
}

fn endpoint(spec: &api::BGPPeerSpec, findings: &mut Findings) -> Endpoint {
    let interface = given(spec.interface.as_ref());
    let is_set = spec.peer_address.as_ref().is_some_and(|text| !text.is_empty());
    let address = address("spec.peerAddress", spec.peer_address.as_ref(), findings);
    match (is_set, &interface) {
        (true, Some(_)) => findings.add("spec.interface", "cannot be set together with peerAddress"),
        (false, None) => findings.add("spec.peerAddress", "either peerAddress or interface is needed"),
        _ => {}
    }
    match address {
        Some(address) => Endpoint::Address(address),
        None => Endpoint::Interface(interface.unwrap_or_default()),
    }
}

/// The address at `field`, of the family that `T` takes.
fn address<T: FromStr>(field: &str, text: Option<&String>, findings: &mut Findings) -> Option<T> {
    let text = text.filter(|text| !text.is_empty())?;
    let address = text.parse().ok();
    if address.is_none() {
        let wanted = if text.parse::<IpAddr>().is_ok() { "an IPv4 address" } else { "an address" };
        findings.add(field, format_args!("{text:?} is not {wanted}"));
    }
    address
}

fn duration(field: &str, text: Option<&String>, findings: &mut Findings) -> Option<Duration> {
    duration::parse(text?).map_err(|error| findings.add(field, error)).ok()
}

fn timers(spec: &api::BGPPeerSpec, findings: &mut Findings) -> Option<Timers> {
    let hold = duration("spec.holdTime", spec.hold_time.as_ref(), findings);
    let keepalive = duration("spec.keepaliveTime", spec.keepalive_time.as_ref(), findings);
    let timers = match (hold, keepalive) {
        (None, None) => return None,
        (Some(hold), Some(keepalive)) => Timers { hold, keepalive },
        (Some(hold), None) => Timers { hold, keepalive: hold / 3 },
        (None, Some(keepalive)) => Timers { hold: keepalive.saturating_mul(3), keepalive },
    };
    let Timers { hold, keepalive } = timers;
    let field = if spec.hold_time.is_some() { "spec.holdTime" } else { "spec.keepaliveTime" };
    if (1..3).contains(&hold.as_secs()) || hold > LONGEST {
        findings.add(field, format_args!("a hold time of {hold:?} is neither 0 nor from 3s to 65535s"));
    }
    if keepalive > hold {
        findings.add(
            "spec.keepaliveTime",
            format_args!("{keepalive:?} is longer than the hold time of {hold:?}"),
        );
    }
    // An OPEN carries whole seconds, and without a hold time there are no keepalives.
    let hold = Duration::from_secs(hold.as_secs());
    Some(Timers { hold, keepalive: if hold.is_zero() { hold } else { keepalive } })
}

fn connect_time(spec: &api::BGPPeerSpec, findings: &mut Findings) -> Option<Duration> {
    let field = "spec.connectTime";
    let time = duration(field, spec.connect_time.as_ref(), findings)?;
    if time.as_secs() == 0 || time > LONGEST || time.subsec_nanos() != 0 {
        findings.add(field, format_args!("{time:?} is not a whole number of seconds from 1 to 65535"));
    }
    Some(time)
}

fn password(spec: &api::BGPPeerSpec, findings: &mut Findings) -> Option<Password> {
    let plain = given(spec.password.as_ref());
    let secret = spec.password_secret.as_ref().and_then(|secret| given(secret.name.as_ref()));
    match (plain, secret) {
        (Some(_), Some(_)) => {
            findings.add("spec.passwordSecret", "cannot be set together with password");
            None
        }
        (Some(plain), None) => {
            if plain.len() > LONGEST_PASSWORD {
                let length = plain.len();
                findings.add(
                    "spec.password",
                    format_args!("has {length} octets: TCP MD5 takes at most {LONGEST_PASSWORD}"),
                );
            }
            Some(Password::Plain(plain))
        }
        (None, Some(secret)) => Some(Password::Secret(secret)),
        (None, None) => None,
    }
}
