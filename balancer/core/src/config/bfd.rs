//! BFDProfile: the BFD session that goes with a BGP session (RFC 5880).

use std::time::Duration;

use metallb_api as api;

use super::problem::Findings;

/// Timers and modes of a BFD session, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfdProfile {
    /// Name of the BFDProfile.
    pub name: String,
    /// Required Min RX Interval (RFC 5880 §4.1).
    pub receive_interval: Duration,
    /// Desired Min TX Interval (RFC 5880 §4.1).
    pub transmit_interval: Duration,
    /// Detect Mult (RFC 5880 §4.1).
    pub detect_multiplier: u8,
    /// Required Min Echo RX Interval (RFC 5880 §4.1).
    pub echo_interval: Duration,
    /// Whether the echo function is used (RFC 5880 §6.4).
    pub echo_mode: bool,
    /// Whether this end takes the passive role (RFC 5880 §6.1).
    pub passive_mode: bool,
    /// Least TTL of packets on a multihop session (RFC 5883).
    pub minimum_ttl: Option<u8>,
}

pub(super) fn parse(object: &api::BFDProfile, findings: &mut Findings) -> BfdProfile {
    let spec = &object.spec;
    let mut within = |field: &str, value: Option<i32>, min: u16, max: u16| -> Option<u16> {
        let value = value?;
        let fits = u16::try_from(value).ok().filter(|value| (min..=max).contains(value));
        if fits.is_none() {
            findings.add(format!("spec.{field}"), format_args!("{value} is not in the range {min} to {max}"));
        }
        fits
    };
    let receive = within("receiveInterval", spec.receive_interval, 10, 60_000);
    let transmit = within("transmitInterval", spec.transmit_interval, 10, 60_000);
    let echo = within("echoInterval", spec.echo_interval, 10, 60_000);
    let multiplier = within("detectMultiplier", spec.detect_multiplier, 2, 255);
    let ttl = within("minimumTtl", spec.minimum_ttl, 1, 254);
    let milliseconds = |value: Option<u16>, default| Duration::from_millis(value.map_or(default, u64::from));
    let octet = |value: u16| u8::try_from(value).ok();
    BfdProfile {
        name: findings.name().to_owned(),
        receive_interval: milliseconds(receive, 300),
        transmit_interval: milliseconds(transmit, 300),
        detect_multiplier: multiplier.and_then(octet).unwrap_or(3),
        echo_interval: milliseconds(echo, 50),
        echo_mode: spec.echo_mode.unwrap_or(false),
        passive_mode: spec.passive_mode.unwrap_or(false),
        minimum_ttl: ttl.and_then(octet),
    }
}
