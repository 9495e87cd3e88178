//! Bidirectional Forwarding Detection: whether a router is reached, told within milliseconds.
//!
//! Asynchronous mode of RFC 5880, on one link (RFC 5881) and across routers (RFC 5883), without authentication. A
//! [`Session`] is given datagrams and the time, and returns what is to be sent; sockets and the choice of the session by
//! address or discriminator are its caller's. What BGP makes of a failure follows RFC 5882. Echo packets are neither
//! sent nor looped back, and the packets say so.

mod packet;
mod session;

pub use packet::{Diagnostic, Discarded, Packet, State};
pub use session::{Action, Change, Event, Reach, Session, Settings, Timers};
