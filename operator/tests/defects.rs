//! What went wrong with operators of MetalLB before this one, and the tests that show that it does not here. A test that
//! is renamed or removed has to be named anew.

use std::{collections::BTreeSet, fs, path::Path};

const PLAN: &str = "operator/src/plan/tests.rs";
const ADOPT: &str = "operator/src/plan/tests/adopt.rs";
const OLDER: &str = "operator/src/plan/tests/older.rs";
const UPGRADE: &str = "operator/src/plan/tests/upgrade.rs";
const COMPATIBILITY: &str = "operator/src/plan/tests/compatibility.rs";
const STATUS: &str = "operator/src/status/tests.rs";
const INSTALL: &str = "operator/src/install/tests.rs";
const SETTINGS: &str = "operator/src/settings.rs";
const ADMISSION: &str = "operator/src/admission/tests.rs";
const GOLDEN: &str = "operator/tests/golden.rs";
const READINESS: &str = "operator/tests/readiness.rs";
const RIGHTS: &str = "e2e/tests/operator/rights.rs";
const POOLS: &str = "operator/src/plan/tests/pools.rs";
const BUNDLE: &str = "api/tests/bundle/main.rs";
const FAULTS: &str = "e2e/tests/operator_faults/faults.rs";
const REMOVAL: &str = "e2e/tests/removal.rs";

/// Keys, a defect, and the tests: file and function.
type Defect = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const DEFECTS: &[Defect] = &[
    (
        "G1",
        "a reason that the schema refuses, so that Degraded is never stored",
        &[(STATUS, "reasons_are_those_that_the_schema_of_a_condition_accepts")],
    ),
    (
        "G2",
        "an error of a write is dropped and not tried again",
        &[(PLAN, "a_write_that_failed_waits_its_time_and_is_told")],
    ),
    (
        "G3",
        "times of transitions move with each pass, and each pass causes the next",
        &[
            ("api/src/conditions.rs", "the_time_moves_only_with_the_status"),
            (PLAN, "a_resource_becomes_objects_and_then_there_is_nothing_to_do"),
        ],
    ),
    (
        "G4",
        "what is deleted or changed stays so until the resource changes",
        &[
            (PLAN, "what_is_changed_or_deleted_is_repaired"),
            (
                "e2e/tests/operator_faults/heal.rs",
                "monitors_services_and_alerts_are_put_back_within_a_second",
            ),
        ],
    ),
    (
        "G5",
        "none of none is Available, and the number of controllers is nobody's",
        &[
            (STATUS, "zero_wanted_pods_are_not_available"),
            ("operator/src/health/tests.rs", "no_wanted_pod_is_not_service"),
            (PLAN, "what_is_changed_or_deleted_is_repaired"),
        ],
    ),
    (
        "G6",
        "IP failover is not looked for",
        &[
            ("operator/src/gate/tests.rs", "evidence_blocks_only_on_the_host_network_and_when_running"),
            (PLAN, "ip_failover_stops_a_first_installation_only"),
        ],
    ),
    (
        "G7",
        "no order and no health in an upgrade, no way back, and OLM is not told",
        &[
            (UPGRADE, "a_new_version_reaches_the_speakers_once_the_controller_is_healthy"),
            (UPGRADE, "a_rollout_that_makes_no_progress_is_taken_back_and_not_tried_again"),
            (UPGRADE, "olm_is_told_that_a_newer_operator_may_come_except_during_a_rollout"),
        ],
    ),
    (
        "G8",
        "what is no longer wanted stays, and so do list items that an older release set",
        &[
            (PLAN, "what_is_no_longer_part_of_it_is_removed_and_nothing_else"),
            (
                "operator/src/plan/adopt.rs",
                "fields_of_older_installers_become_the_operators_and_those_of_others_stay",
            ),
        ],
    ),
    (
        "G9",
        "PodMonitors select nothing, and may not be made",
        &[(GOLDEN, "pod_monitors_without_policies"), (GOLDEN, "what_monitors_select_is_there")],
    ),
    (
        "G10",
        "in mode frr one object is deleted and made anew for ever",
        &[(PLAN, "whoever_speaks_bgp_there_is_an_end_to_what_is_to_be_done")],
    ),
    (
        "G11",
        "objects of somebody else's frr-k8s are deleted by their names",
        &[(OLDER, "parts_of_frr_k8s_go_where_the_go_operator_applied_them_and_only_there")],
    ),
    (
        "G12",
        "objects without a namespace outlive the resource, and hold others up",
        &[
            (GOLDEN, "every_object_goes_with_the_resource_in_whose_namespace_it_is"),
            (REMOVAL, "objects_and_then_the_namespace_go_without_the_operator"),
            (REMOVAL, "the_whole_installation_goes_without_the_operator"),
        ],
    ),
    (
        "G13",
        "Available leaves a part of the installation out",
        &[
            (STATUS, "a_load_balancer_that_works_says_so_and_nothing_else"),
            ("operator/src/health/tests.rs", "a_pod_on_a_node_that_takes_none_stands_in_for_no_other"),
        ],
    ),
    (
        "G14 G16",
        "a start of the operator ends who answers the API server, and ready says nothing about that",
        &[(READINESS, "it_is_ready_while_its_webhooks_answer_and_the_api_server_trusts_them")],
    ),
    (
        "G15 B10",
        "a resource of another name or namespace is neither refused nor told",
        &[
            (PLAN, "a_resource_of_another_name_or_namespace_is_told_and_harms_nothing"),
            (ADMISSION, "a_resource_in_another_namespace_is_refused_and_one_of_another_name_warned_of"),
        ],
    ),
    (
        "G17",
        "nothing is looked at first: rights, Pod Security, ports, other load balancers, kube-proxy",
        &[
            (COMPATIBILITY, "whatever_stands_in_the_way_is_told_with_what_separates_the_two"),
            (
                COMPATIBILITY,
                "beside_a_metallb_in_another_namespace_nothing_is_installed_and_no_annotation_hands_it_over",
            ),
            (UPGRADE, "a_version_waits_for_approval_and_for_what_it_needs"),
            (
                "e2e/tests/operator_faults/needs.rs",
                "bindings_accounts_and_webhook_configurations_that_go_are_named",
            ),
        ],
    ),
    (
        "G18",
        "Secrets of the whole cluster, and rights to everything",
        &[
            (RIGHTS, "the_operator_may_do_what_it_does_and_little_more"),
            (RIGHTS, "controller_and_speaker_may_do_what_they_do_and_little_more"),
        ],
    ),
    (
        "G19",
        "no Events, no metrics, no alerts",
        &[
            (PLAN, "ip_failover_stops_a_first_installation_only"),
            ("operator/src/metrics.rs", "what_was_counted_is_shown"),
            ("e2e/tests/monitoring/main.rs", "each_alert_fires_for_what_it_is_about_and_for_nothing_else"),
            (BUNDLE, "the_committed_bundle_obeys_every_rule"),
            (BUNDLE, "what_is_published_names_images_by_digest_and_has_a_home"),
            (BUNDLE, "the_bundle_claims_only_what_is_shown"),
        ],
    ),
    (
        "G20 G21",
        "one port of the API server in all policies, no DNS, and much that cannot be set",
        &[(GOLDEN, "every_field"), (INSTALL, "the_further_fields_become_flags_and_policies")],
    ),
    (
        "G22",
        "OpenShift refuses the pods of a mode that is accepted",
        &[
            (GOLDEN, "openshift_lets_the_speaker_run_as_it_is_rendered_and_no_more"),
            (GOLDEN, "openshift_grants_its_constraints_to_the_accounts_of_the_pods"),
            (ADOPT, "all_pods_run_under_an_account_that_openshift_admits"),
        ],
    ),
    (
        "G23",
        "an AddressPool tells nothing, and is deleted while it is used without a word",
        &[
            ("operator/src/plan/tests/pools.rs", "a_pool_tells_how_much_of_it_is_used"),
            (ADMISSION, "a_pool_in_use_may_be_deleted_or_shrunk_but_not_unnoticed"),
        ],
    ),
    (
        "B1",
        "a bad spec is skipped, and Available is written of what was before",
        &[
            (PLAN, "a_spec_with_problems_changes_nothing_and_is_told"),
            (INSTALL, "every_problem_of_a_spec_is_named"),
        ],
    ),
    (
        "B2",
        "values are pasted into text: a line break adds YAML, and true and 123 change their type",
        &[
            (FAULTS, "a_spec_with_problems_is_told_once_and_changes_nothing_until_it_is_right"),
            (GOLDEN, "every_field"),
            ("operator/src/install/syntax.rs", "names_are_judged_as_kubernetes_does"),
        ],
    ),
    (
        "B3",
        "a bad value for frr-k8s breaks the other modes",
        &[(INSTALL, "what_is_for_frr_alone_stops_no_installation")],
    ),
    (
        "B4",
        "tolerations, affinities, resources and names are judged by halves or not at all",
        &[
            (INSTALL, "every_problem_of_a_spec_is_named"),
            (INSTALL, "affinity_is_judged_whole"),
            (INSTALL, "resources_take_their_canonical_form"),
            (
                "e2e/tests/operator/refused.rs",
                "a_priority_class_that_is_missing_is_named_and_the_other_speakers_stay",
            ),
        ],
    ),
    ("B6", "the class is changed without a word", &[(ADMISSION, "a_change_of_the_class_is_warned_of")]),
    (
        "B7 B8",
        "the digest of an image is lost, and ports and switches of the environment are not judged",
        &[
            (SETTINGS, "images_are_used_as_they_stand_and_ports_have_defaults"),
            (SETTINGS, "zero_negative_and_words_are_not_ports"),
            (SETTINGS, "every_problem_is_named"),
        ],
    ),
    ("B11", "a conflict of a write is lost", &[(FAULTS, "conflicts_and_lost_answers_cost_no_object")]),
    (
        "B12",
        "one unreadable entry of the old ConfigMap ends every later change in silence",
        &[("operator/src/plan/tests/import.rs", "nothing_is_imported_while_one_entry_has_a_problem")],
    ),
    (
        "B5",
        "bgpBackend is any text, and two parts disagree about it",
        &[
            (INSTALL, "every_problem_of_a_spec_is_named"),
            ("api/tests/strictness.rs", "no_definition_asks_for_more_than_users_know"),
        ],
    ),
    (
        "B9",
        "a variable without the one that it needs ends the program",
        &[(SETTINGS, "variables_of_the_go_operator_that_mean_nothing_here_are_no_problem")],
    ),
    (
        "P1 P2 P3 P4",
        "pools, and what others wrote into the ConfigMap, are lost when pools are merged into it",
        &[
            (POOLS, "each_entry_of_bgp_advertisements_has_its_object_and_what_is_edited_by_hand_is_put_back"),
            ("operator/src/pool/tests.rs", "a_pool_of_somebody_else_is_never_overwritten"),
            (
                "operator/src/plan/tests/import.rs",
                "a_configuration_of_an_older_metallb_is_told_and_imported_when_asked_for",
            ),
            (PLAN, "a_write_that_failed_waits_its_time_and_is_told"),
        ],
    ),
    (
        "P5 P6",
        "addresses are pasted into text, and a field that is not set ends the program",
        &[(
            "operator/src/pool/tests.rs",
            "a_pool_that_makes_no_sense_is_refused_by_field_and_harms_no_other",
        )],
    ),
    (
        "P7",
        "an empty reason, so that Progressing is never stored",
        &[(STATUS, "reasons_are_those_that_the_schema_of_a_condition_accepts")],
    ),
    (
        "P8",
        "what is left is not served when a pool is deleted",
        &[(POOLS, "a_pool_that_is_made_again_at_once_has_what_the_one_before_became")],
    ),
];

/// Gaps (G) and bad input (B) of the operators before, and what went wrong with their pools (P).
fn keys() -> BTreeSet<String> {
    [("G", 23), ("B", 12), ("P", 8)]
        .into_iter()
        .flat_map(|(of, last)| (1..=last).map(move |at| format!("{of}{at}")))
        .collect()
}

/// What is wrong with a test that `text` is to hold.
fn problem(text: &str, test: &str) -> Option<&'static str> {
    let Some(at) = text.find(&format!("fn {test}()")) else { return Some("is not there") };
    let attributes = text[..at].rsplit('\n').skip(1).take_while(|line| line.trim_start().starts_with("#["));
    let attributes: Vec<&str> = attributes.map(str::trim).collect();
    if !attributes.iter().any(|line| line.contains("test")) {
        return Some("is no test");
    }
    attributes.iter().any(|line| line.starts_with("#[ignore")).then_some("is not run")
}

#[test]
fn each_known_defect_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    for (keys, defect, tests) in DEFECTS {
        assert!(!tests.is_empty(), "{defect}");
        for key in keys.split(' ') {
            assert!(found.insert(key.to_owned()), "{key} twice");
        }
        for (file, test) in *tests {
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(problem(&text, test), None, "{keys}, {defect}: {test} in {file}");
        }
    }
    assert_eq!(found, keys());
}

#[test]
fn a_test_that_is_gone_or_not_run_shows_nothing() {
    let table = [
        ("#[test]\nfn a() {}", None),
        ("#[tokio::test(flavor = \"multi_thread\")]\nasync fn a() -> Result<()> {}", None),
        ("#[test]\nfn b() {}", Some("is not there")),
        ("fn a() {}", Some("is no test")),
        ("#[test]\nfn b() {}\n\nfn a() {}", Some("is no test")),
        ("#[test]\n#[ignore]\nfn a() {}", Some("is not run")),
        ("#[ignore = \"slow\"]\n#[test]\nfn a() {}", Some("is not run")),
    ];
    for (text, want) in table {
        assert_eq!(problem(text, "a"), want, "{text}");
    }
}
