//! What went wrong with operators of MetalLB before this one, and the tests that show that it does not here. A test that
//! is renamed or removed has to be named anew.

use std::{fs, path::Path};

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
const REMOVAL: &str = "e2e/tests/removal.rs";

/// A defect, and the tests: file and function.
type Defect = (&'static str, &'static [(&'static str, &'static str)]);

const DEFECTS: &[Defect] = &[
    (
        "a reason that the schema refuses, so that Degraded is never stored",
        &[(STATUS, "reasons_are_those_that_the_schema_of_a_condition_accepts")],
    ),
    (
        "an error of a write is dropped and not tried again",
        &[(PLAN, "a_write_that_failed_waits_its_time_and_is_told")],
    ),
    (
        "times of transitions move with each pass, and each pass causes the next",
        &[
            ("api/src/conditions.rs", "the_time_moves_only_with_the_status"),
            (PLAN, "a_resource_becomes_objects_and_then_there_is_nothing_to_do"),
        ],
    ),
    (
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
        "none of none is Available, and the number of controllers is nobody's",
        &[
            (STATUS, "zero_wanted_pods_are_not_available"),
            ("operator/src/health/tests.rs", "no_wanted_pod_is_not_service"),
            (PLAN, "what_is_changed_or_deleted_is_repaired"),
        ],
    ),
    (
        "IP failover is not looked for",
        &[
            ("operator/src/gate/tests.rs", "evidence_blocks_only_on_the_host_network_and_when_running"),
            (PLAN, "ip_failover_stops_a_first_installation_only"),
        ],
    ),
    (
        "no order and no health in an upgrade, no way back, and OLM is not told",
        &[
            (UPGRADE, "a_new_version_reaches_the_speakers_once_the_controller_is_healthy"),
            (UPGRADE, "a_rollout_that_makes_no_progress_is_taken_back_and_not_tried_again"),
            (UPGRADE, "olm_is_told_that_a_newer_operator_may_come_except_during_a_rollout"),
        ],
    ),
    (
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
        "PodMonitors select nothing, and may not be made",
        &[(GOLDEN, "pod_monitors_without_policies"), (GOLDEN, "what_monitors_select_is_there")],
    ),
    (
        "in mode frr one object is deleted and made anew for ever",
        &[(PLAN, "whoever_speaks_bgp_there_is_an_end_to_what_is_to_be_done")],
    ),
    (
        "objects of somebody else's frr-k8s are deleted by their names",
        &[(OLDER, "parts_of_frr_k8s_go_where_the_go_operator_applied_them_and_only_there")],
    ),
    (
        "objects without a namespace outlive the resource, and hold others up",
        &[
            (GOLDEN, "every_object_goes_with_the_resource_in_whose_namespace_it_is"),
            (REMOVAL, "objects_and_then_the_namespace_go_without_the_operator"),
            (REMOVAL, "the_whole_installation_goes_without_the_operator"),
        ],
    ),
    (
        "Available leaves a part of the installation out",
        &[
            (STATUS, "a_load_balancer_that_works_says_so_and_nothing_else"),
            ("operator/src/health/tests.rs", "a_pod_on_a_node_that_takes_none_stands_in_for_no_other"),
        ],
    ),
    (
        "a start of the operator ends who answers the API server, and ready says nothing about that",
        &[(READINESS, "it_is_ready_while_its_webhooks_answer_and_the_api_server_trusts_them")],
    ),
    (
        "a resource of another name or namespace is neither refused nor told",
        &[
            (PLAN, "a_resource_of_another_name_or_namespace_is_told_and_harms_nothing"),
            (ADMISSION, "a_resource_in_another_namespace_is_refused_and_one_of_another_name_warned_of"),
        ],
    ),
    (
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
        "Secrets of the whole cluster, and rights to everything",
        &[
            (RIGHTS, "the_operator_may_do_what_it_does_and_little_more"),
            (RIGHTS, "controller_and_speaker_may_do_what_they_do_and_little_more"),
        ],
    ),
    (
        "no Events, no metrics, no alerts",
        &[
            (PLAN, "ip_failover_stops_a_first_installation_only"),
            ("operator/src/metrics.rs", "what_was_counted_is_shown"),
            ("e2e/tests/monitoring/main.rs", "each_alert_fires_for_what_it_is_about_and_for_nothing_else"),
        ],
    ),
    (
        "one port of the API server in all policies, no DNS, and much that cannot be set",
        &[(GOLDEN, "every_field"), (INSTALL, "the_further_fields_become_flags_and_policies")],
    ),
    (
        "OpenShift refuses the pods of a mode that is accepted",
        &[
            (GOLDEN, "openshift_lets_the_speaker_run_as_it_is_rendered_and_no_more"),
            (GOLDEN, "openshift_grants_its_constraints_to_the_accounts_of_the_pods"),
            (ADOPT, "all_pods_run_under_an_account_that_openshift_admits"),
        ],
    ),
    (
        "an AddressPool tells nothing, and is deleted while it is used without a word",
        &[
            ("operator/src/plan/tests/pools.rs", "a_pool_tells_how_much_of_it_is_used"),
            (ADMISSION, "a_pool_in_use_may_be_deleted_or_shrunk_but_not_unnoticed"),
        ],
    ),
    (
        "a bad spec is skipped, and Available is written of what was before",
        &[
            (PLAN, "a_spec_with_problems_changes_nothing_and_is_told"),
            (INSTALL, "every_problem_of_a_spec_is_named"),
        ],
    ),
    (
        "values are pasted into text: a line break adds YAML, and true and 123 change their type",
        &[(GOLDEN, "every_field"), ("operator/src/install/syntax.rs", "names_are_judged_as_kubernetes_does")],
    ),
    (
        "a bad value for frr-k8s breaks the other modes",
        &[(INSTALL, "what_is_for_frr_alone_stops_no_installation")],
    ),
    (
        "tolerations, affinities, resources and names are judged by halves or not at all",
        &[
            (INSTALL, "every_problem_of_a_spec_is_named"),
            (INSTALL, "affinity_is_judged_whole"),
            (INSTALL, "resources_take_their_canonical_form"),
        ],
    ),
    ("the class is changed without a word", &[(ADMISSION, "a_change_of_the_class_is_warned_of")]),
    (
        "the digest of an image is lost, and ports and switches of the environment are not judged",
        &[
            (SETTINGS, "images_are_used_as_they_stand_and_ports_have_defaults"),
            (SETTINGS, "zero_negative_and_words_are_not_ports"),
            (SETTINGS, "every_problem_is_named"),
        ],
    ),
    (
        "a conflict of a write is lost",
        &[("e2e/tests/operator_faults/faults.rs", "conflicts_and_lost_answers_cost_no_object")],
    ),
    (
        "one unreadable entry of the old ConfigMap ends every later change in silence",
        &[("operator/src/plan/tests/import.rs", "nothing_is_imported_while_one_entry_has_a_problem")],
    ),
];

#[test]
fn each_known_defect_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (defect, tests) in DEFECTS {
        assert!(!tests.is_empty(), "{defect}");
        for (file, test) in *tests {
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {test}()")), "{defect}: no test {test} in {file}");
        }
    }
}
