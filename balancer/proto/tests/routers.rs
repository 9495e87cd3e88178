//! Bad messages of routers: the corpora of the fuzz targets, and inputs made from them.

#[path = "support/mutate.rs"]
mod mutate;
#[path = "support/routers.rs"]
mod routers;

/// Inputs made from each corpus.
const GENERATED: usize = 50_000;

#[test]
fn no_open_breaks_the_session_s_promises() {
    mutate::try_all("bgp_open", 4, GENERATED, routers::open);
}

#[test]
fn no_update_breaks_the_session_s_promises() {
    mutate::try_all("bgp_update", 10, GENERATED, routers::update);
}

#[test]
fn no_notification_breaks_the_session_s_promises() {
    mutate::try_all("bgp_notification", 5, GENERATED, routers::notification);
}

#[test]
fn no_stream_breaks_the_session_s_promises() {
    mutate::try_all("bgp_stream", 4, GENERATED, routers::stream);
}

#[test]
fn no_bfd_packet_breaks_the_session_s_promises() {
    mutate::try_all("bfd_packet", 5, GENERATED, routers::bfd);
}
