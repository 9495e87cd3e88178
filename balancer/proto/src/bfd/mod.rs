//! Bidirectional Forwarding Detection: whether a router is reached, told within milliseconds.
//!
//! Asynchronous mode of RFC 5880, on one link (RFC 5881) and across routers (RFC 5883), without authentication, and on
//! one link the echo function. A [`Session`] is given datagrams and the time, and returns what is to be sent; sockets and
//! the choice of the session by address or discriminator are its caller's. What BGP makes of a failure follows RFC 5882.

pub mod echo;
mod event;
mod packet;
mod session;
mod settings;
pub mod wire;

pub use event::{Action, Change, Event};
pub use packet::{Diagnostic, Discarded, Packet, State};
pub use session::Session;
pub use settings::{Reach, Settings, Timers};
