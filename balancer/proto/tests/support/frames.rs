//! What holds for any bytes that are received as a frame.

use std::net::IpAddr;

use metallb_proto::layer2::MacAddress;
use metallb_proto::layer2::frame::{self, Arp, Frame};
use metallb_proto::layer2::responder::{Responder, Verdict};

const LOCAL: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const ANNOUNCED: [&str; 2] = ["172.22.0.101", "fd00:22::101"];
/// Asked for, and not announced.
const WANTED: [&str; 2] = ["172.22.0.102", "fd00:22::102"];

/// Fails when the bytes are answered although they are no question for an announced address, or the answer is none.
pub(crate) fn check(bytes: &[u8]) {
    let mut responder = Responder::new(LOCAL);
    for address in ANNOUNCED {
        responder.set(address.parse().unwrap(), true);
    }
    responder.want(WANTED.map(|address| address.parse().unwrap()).into());
    let decoded = frame::decode(LOCAL, bytes);
    match responder.handle(bytes) {
        Verdict::Reply { address, frame: answer } => {
            let asked: IpAddr = match decoded {
                Ok(Frame::ArpRequest(Arp { target, .. })) => target.into(),
                Ok(Frame::NeighborSolicit { target, .. }) => target.into(),
                other => panic!("answered {other:?}"),
            };
            assert_eq!(asked, address);
            assert!(ANNOUNCED.contains(&address.to_string().as_str()), "answered for {address}");
            let says: (MacAddress, IpAddr) = match frame::decode(MacAddress([2, 0, 0, 0, 0, 0x77]), &answer) {
                Ok(Frame::NeighborAdvert { mac, target }) => (mac, target.into()),
                // An answer to one host is not addressed to any other.
                Err(frame::Rejected::NotAddressed) => (LOCAL, address),
                Ok(Frame::ArpReply(Arp { sender_mac, sender, .. })) => (sender_mac, sender.into()),
                other => panic!("the answer is {other:?}"),
            };
            assert_eq!(says, (LOCAL, address));
        }
        Verdict::Probe(claim) => {
            assert!(WANTED.contains(&claim.address.to_string().as_str()), "{claim:?} of {decoded:?}");
        }
        Verdict::Claim(_) | Verdict::NotOurs => assert!(decoded.is_ok()),
        Verdict::Rejected(reason) => assert_eq!(decoded, Err(reason)),
    }
}
