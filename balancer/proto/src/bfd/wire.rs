//! What all packets have in common (RFC 5881 §4 and §5, RFC 5883 §5).

/// Port of control packets on one link.
pub const SINGLE_HOP_PORT: u16 = 3784;
/// Port of echo packets.
pub const ECHO_PORT: u16 = 3785;
/// Port of control packets across routers.
pub const MULTIHOP_PORT: u16 = 4784;
/// TTL or hop limit of all that is sent, and of what took no hop.
pub const TTL: u8 = 255;
/// Traffic class of all that is sent, DSCP CS6: a lost packet must not be taken for a broken path because the path is
/// busy.
pub const TRAFFIC_CLASS: u8 = 0xc0;
