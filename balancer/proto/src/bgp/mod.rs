//! BGP-4 sessions with routers (RFC 4271), over which routes are announced and none is taken.
//!
//! A [`Session`] is given events and the time, and returns what is to be done; sockets, clocks and randomness are its
//! caller's. Messages are written, and capabilities and path attributes read, by `netgauze-bgp-pkt`; streams, lists and
//! lengths are taken apart here, so that a malformed part never costs more than the RFCs ask for.
//!
//! What the two ends agree on: multiprotocol (RFC 4760), AS numbers of four octets (RFC 6793), route refresh (RFC 2918,
//! RFC 7313), graceful restart (RFC 4724, RFC 8538), extended messages (RFC 8654), extended next hops (RFC 8950). Faults
//! in UPDATEs are treated by RFC 7606, shutdown texts follow RFC 9003, graceful shutdown RFC 8326.

mod adj_rib_out;
mod connection;
mod event;
mod frame;
pub mod notification;
mod open;
mod received;
mod route;
mod session;
mod settings;
#[cfg(test)]
mod transcripts;
pub mod unnumbered;
mod update;

pub use event::{Action, Bfd, Counters, Down, Event, Report, Side, State, Stop};
pub use notification::Notification;
pub use open::{Agreed, RouterRestart};
pub use route::{Attributes, Community, Family, LargeCommunity, NextHops, Routes, Unsent};
pub use session::Session;
pub use settings::{Asn, GracefulRestart, RemoteAsn, RouterId, Settings};
