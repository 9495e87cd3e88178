use super::*;
use crate::{
    gate::Severity,
    health::{Cause, Trouble},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

fn health(ready: usize, wanted: usize) -> Option<Health> {
    Some(Health { wanted, ready, ..Health::default() })
}

fn serving() -> Observation {
    let ip_failover = Some(IpFailover::default());
    Observation {
        controller: health(1, 1),
        speaker: health(3, 3),
        has_pool: true,
        ip_failover,
        ..Observation::default()
    }
}

/// Type, status, reason and message of each condition.
fn told(seen: &Observation) -> Vec<(&'static str, bool, &'static str, String)> {
    flat(conditions(seen, &[], Some(1)))
}

fn flat(reports: Vec<Report>) -> Vec<(&'static str, bool, &'static str, String)> {
    reports.into_iter().map(|report| (report.kind, report.status, report.reason, report.message)).collect()
}

fn condition(
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: &str,
) -> (&'static str, bool, &'static str, String) {
    (kind, status, reason, message.to_owned())
}

#[test]
fn reasons_are_those_that_the_schema_of_a_condition_accepts() {
    // ^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$
    for reason in Reason::ALL {
        let text = reason.as_str();
        assert!(text.starts_with(|letter: char| letter.is_ascii_alphabetic()), "{text}");
        assert!(text.chars().all(|letter| letter.is_ascii_alphanumeric()), "{text}");
    }
}

#[test]
fn a_load_balancer_that_works_says_so_and_nothing_else() {
    assert_eq!(
        told(&serving()),
        [
            condition("Available", true, "Available", "the controller and 3 speakers are ready"),
            condition("Upgradeable", true, "Upgradeable", ""),
            condition("Progressing", false, "Progressing", ""),
            condition("Degraded", false, "Degraded", ""),
            condition("IPFailoverAbsent", true, "IPFailoverAbsent", ""),
            condition("Compatible", true, "Compatible", ""),
            condition("Managed", true, "Managed", ""),
        ]
    );
}

#[test]
fn nodes_that_are_not_ready_are_named_and_degrade_nothing() {
    let excused = ["node2".to_owned()].into();
    let speaker = Some(Health { wanted: 1, ready: 1, excused, ..Health::default() });
    let seen = Observation { speaker, has_pool: false, bgp_backend: BgpBackend::Frr, ..serving() };
    let told = told(&seen);
    assert_eq!(
        told[0],
        condition(
            "Available",
            true,
            "Available",
            "the controller and 1 speaker are ready; nodes that are not Ready announce nothing: node2; there is no \
             address pool, so no Service gets an address: create an IPAddressPool with an advertisement, or an \
             AddressPool; with bgpBackend frr too, the speaker itself speaks BGP"
        )
    );
    assert_eq!(told[3], condition("Degraded", false, "Degraded", ""));
}

#[test]
fn zero_wanted_pods_are_not_available() {
    let no_speaker = told(&Observation { speaker: health(0, 0), ..serving() });
    assert_eq!((no_speaker[0].1, no_speaker[0].2), (false, "NoSpeakerWanted"));
    let no_controller = told(&Observation { controller: health(0, 0), ..serving() });
    assert_eq!((no_controller[0].1, no_controller[0].2), (false, "ControllerNotReady"));
}

#[test]
fn one_controller_of_several_serves() {
    let told = |controller| told(&Observation { controller, ..serving() })[0].clone();
    let message = "1 of 2 controllers and 3 speakers are ready";
    assert_eq!(told(health(1, 2)), condition("Available", true, "Available", message));
    let message = "0 of 2 controllers are ready";
    assert_eq!(told(health(0, 2)), condition("Available", false, "ControllerNotReady", message));
}

#[test]
fn progress_ends_when_the_load_balancer_works_and_a_reboot_is_none() {
    let starting = Observation { speaker: health(2, 3), ..serving() };
    assert_eq!(
        told(&starting)[2],
        condition("Progressing", true, "Starting", "waiting for the pods to be ready")
    );
    let settled = Condition {
        type_: "Progressing".to_owned(),
        status: "False".to_owned(),
        observed_generation: Some(1),
        reason: String::new(),
        message: String::new(),
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
    };
    let later = flat(conditions(&starting, std::slice::from_ref(&settled), Some(1)));
    assert_eq!(later[2], condition("Progressing", false, "Progressing", ""));
    assert_eq!(later[0], condition("Available", false, "SpeakersNotReady", "2 of 3 speakers are ready"));
    let edited = flat(conditions(&starting, &[settled], Some(2)));
    assert!(edited[2].1, "a new spec is progress until it works");

    let rolling = Some(Health { rolling_out: true, wanted: 3, ready: 3, ..Health::default() });
    let rolling = told(&Observation { speaker: rolling, ..serving() });
    assert_eq!(rolling[1], condition("Upgradeable", true, "Upgradeable", ""), "no version is rolled out");
    assert_eq!(rolling[2], condition("Progressing", true, "RollingOut", "speaker: 3 of 3 ready"));
}

#[test]
fn a_refusal_leaves_what_runs_available_and_says_what_to_do() {
    let problem = Problem { field: "spec.bgpBackend".to_owned(), message: "no".to_owned() };
    let seen = Observation { refusal: Some(Refusal::Invalid(vec![problem.clone(), problem])), ..serving() };
    let running = told(&seen);
    assert!(running[0].1);
    assert_eq!(
        running[3],
        condition("Degraded", true, "InvalidSpec", "spec.bgpBackend: no; spec.bgpBackend: no")
    );

    let finding = finding(Severity::Block);
    let ip_failover = Some(IpFailover { findings: vec![finding.clone()], overlaps: Vec::new() });
    let refusal = Some(Refusal::IpFailover(vec![finding]));
    let seen = Observation { refusal, ip_failover, ..Observation::default() };
    assert_eq!(
        told(&seen),
        [
            condition(
                "Available",
                false,
                "NotInstalled",
                "nothing is installed; condition Degraded says why"
            ),
            condition("Upgradeable", true, "Upgradeable", ""),
            condition("Progressing", false, "Progressing", ""),
            condition(
                "Degraded",
                true,
                "IPFailoverPresent",
                "nothing is installed beside IP failover, which claims addresses on the same network: remove \
                 DaemonSet ns/ha (label ipfailover)"
            ),
            condition(
                "IPFailoverAbsent",
                false,
                "IPFailoverPresent",
                "IP failover is there: DaemonSet ns/ha (label ipfailover)"
            ),
            condition("Compatible", true, "Compatible", ""),
            condition("Managed", true, "Managed", ""),
        ]
    );
}

#[test]
fn every_cause_is_in_the_message_and_the_first_is_the_reason() {
    let trouble = |cause, message: &str| Trouble { cause, message: message.to_owned() };
    let speaker = Some(Health {
        wanted: 3,
        ready: 1,
        troubles: vec![trouble(Cause::ImagePull, "pod a"), trouble(Cause::CrashLoop, "pod b")],
        ..Health::default()
    });
    let mut seen = Observation { speaker, ..serving() };
    assert_eq!(told(&seen)[3], condition("Degraded", true, "ImagePullFailed", "pod a; pod b"));
    seen.failures = vec!["Deployment x: forbidden".to_owned()];
    assert_eq!(
        told(&seen)[3],
        condition("Degraded", true, "ApplyFailed", "Deployment x: forbidden; pod a; pod b")
    );
}

#[test]
fn a_message_fits_into_a_condition_and_tells_how_many_more_causes_there_are() {
    let degraded = |failures: Vec<String>| told(&Observation { failures, ..serving() })[3].3.clone();
    let long = "ä".repeat(40_000);
    let message = degraded(vec![long.clone()]);
    assert!((4000..=4096).contains(&message.len()) && message.ends_with('…'), "{}", message.len());
    let message = degraded(vec![long.clone(), "b".to_owned(), long]);
    assert!(message.len() <= 4096 && message.ends_with("…; and 2 more"), "{message}");
    let some: Vec<String> = (1000..1300).map(|at| format!("cause {at}")).collect();
    assert_eq!(degraded(some.clone()), some.join("; "));
    let many: Vec<String> = (1000..2000).map(|at| format!("cause {at}")).collect();
    let message = degraded(many);
    let told = message.split("; ").filter(|part| part.starts_with("cause ")).count();
    assert!(message.len() <= 4096 && message.len() > 4000, "{}", message.len());
    assert!(message.ends_with(&format!("; and {} more", 1000 - told)), "{message}");
}

#[test]
fn a_resource_without_effect_says_which_one_has() {
    let told = flat(misplaced("metallb-system"));
    assert_eq!(
        told[3],
        condition(
            "Degraded",
            true,
            "IncorrectMetalLBResourceName",
            "this resource has no effect: only the one named \"metallb\" in namespace \"metallb-system\" has. Move \
             what is meant to it and delete this one"
        )
    );
    assert!(!told[0].1);
}

fn finding(severity: Severity) -> Finding {
    Finding {
        kind: "DaemonSet",
        namespace: "ns".to_owned(),
        name: "ha".to_owned(),
        evidence: vec!["label ipfailover".to_owned()],
        severity,
        virtual_ips: Vec::new(),
    }
}

#[test]
fn beside_ip_failover_what_runs_is_degraded_only_when_two_claim_one_address() {
    let mut found = IpFailover { findings: vec![finding(Severity::Idle)], overlaps: Vec::new() };
    let beside = told(&Observation { ip_failover: Some(found.clone()), ..serving() });
    assert_eq!(
        beside[3..5],
        [
            condition("Degraded", false, "Degraded", ""),
            condition(
                "IPFailoverAbsent",
                false,
                "IPFailoverPresent",
                "IP failover is there: DaemonSet ns/ha (label ipfailover), which is not active now; what is installed \
                 goes on running beside it"
            ),
        ]
    );
    let contained = IpFailover { findings: vec![finding(Severity::Contained)], overlaps: Vec::new() };
    let says = &told(&Observation { ip_failover: Some(contained), ..serving() })[4].3;
    assert!(says.contains("(label ipfailover), which is not in the network of its host;"), "{says}");
    found.overlaps = vec!["192.0.2.1 of x meets 192.0.2.0/24 of IPAddressPool p".to_owned()];
    let meets = told(&Observation { ip_failover: Some(found), ..serving() });
    assert_eq!(
        meets[3],
        condition(
            "Degraded",
            true,
            "IPFailoverPresent",
            "two claim one address: 192.0.2.1 of x meets 192.0.2.0/24 of IPAddressPool p"
        )
    );
    assert!(meets[1].1, "it does not touch Upgradeable");
    let ignored = told(&Observation { ip_failover: None, ..serving() });
    assert_eq!(
        ignored[4],
        condition("IPFailoverAbsent", true, "NotLookedFor", "spec.ipFailoverPolicy is Ignore")
    );
}
