use super::*;

const NOW: &str = "2030-01-01T00:10:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn node(name: &str, ready: &str) -> Node {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: {name}}}, status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
    ))
    .unwrap()
}

fn nodes() -> Vec<Node> {
    vec![node("node1", "True"), node("node2", "True"), node("node3", "Unknown")]
}

fn find<'a>(nodes: &'a [Node]) -> impl Fn(&str) -> Option<&'a Node> {
    |name| nodes.iter().find(|node| node.name_any() == name)
}

/// A pod on `node` whose status holds `status` besides a Ready condition that is `ready` since `since`.
fn pod(node: &str, ready: &str, since: &str, status: &str) -> Pod {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: speaker-{node}, labels: {{pod-template-generation: '2'}}}}, spec: {{nodeName: {node}, \
         containers: []}}, status: {{conditions: [{{type: Ready, status: '{ready}', lastTransitionTime: '{since}'}}]{status}}}}}"
    ))
    .unwrap()
}

fn ready(node: &str) -> Pod {
    pod(node, "True", "2030-01-01T00:00:00Z", "")
}

fn waiting(node: &str, reason: &str, message: &str) -> Pod {
    let state = format!("{{waiting: {{reason: {reason}, message: '{message}'}}}}");
    let container =
        format!("{{name: c, ready: false, image: i, imageID: '', restartCount: 0, state: {state}}}");
    pod(node, "False", "2030-01-01T00:09:59Z", &format!(", containerStatuses: [{container}]"))
}

fn daemon_set(observed: i64, desired: i32) -> DaemonSet {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: speaker, generation: 3, annotations: {{deprecated.daemonset.template.generation: '2'}}}}, \
         status: {{observedGeneration: {observed}, desiredNumberScheduled: {desired}, currentNumberScheduled: 0, \
         numberMisscheduled: 0, numberReady: 0}}}}"
    ))
    .unwrap()
}

fn speakers(daemon_set: &DaemonSet, pods: &[Pod]) -> Health {
    of_daemon_set(daemon_set, pods.iter(), find(&nodes()), None, now())
}

#[test]
fn speakers_serve_when_one_is_ready_on_each_ready_node() {
    let pods = [ready("node1"), ready("node2"), pod("node3", "False", NOW, "")];
    let health = speakers(&daemon_set(3, 3), &pods);
    let progress = Progress { last: Some("2030-01-01T00:00:10Z".parse().unwrap()), lags: false };
    let excused = ["node3".to_owned()].into();
    let want = Health { wanted: 2, ready: 2, excused, progress, ..Health::default() };
    assert_eq!(health, want);
    assert!(health.serves());
}

#[test]
fn no_wanted_pod_is_not_service() {
    let none = speakers(&daemon_set(3, 0), &[]);
    assert!(!none.serves() && !none.rolling_out, "{none:?}");
}

#[test]
fn a_change_that_is_not_taken_up_yet_takes_no_pod_away() {
    let stale = speakers(&daemon_set(2, 2), &[ready("node1"), ready("node2")]);
    assert!(stale.serves() && stale.rolling_out, "{stale:?}");
    let less = speakers(&daemon_set(2, 2), &[ready("node1")]);
    assert_eq!((less.serves(), less.ready, less.wanted), (false, 1, 2));
    let mut new = daemon_set(0, 0);
    new.status = None;
    let new = speakers(&new, &[]);
    assert_eq!((new.serves(), new.rolling_out, new.wanted), (false, true, 1));
}

/// A DaemonSet for nodes with label `speaker`.
fn choosy(desired: i32) -> DaemonSet {
    let mut set = daemon_set(3, desired);
    set.spec = serde_saphyr::from_str(
        "{selector: {}, template: {spec: {containers: [], nodeSelector: {speaker: 'yes'}}}}",
    )
    .unwrap();
    set
}

#[test]
fn a_pod_on_a_node_that_takes_none_stands_in_for_no_other() {
    let labelled = |name: &str, ready: &str| {
        let mut node = node(name, ready);
        node.labels_mut().insert("speaker".to_owned(), "yes".to_owned());
        node
    };
    // The third is dead and the fourth is not; neither takes a speaker any more. The fifth was removed.
    let nodes = [
        labelled("node1", "True"),
        labelled("node2", "True"),
        node("node3", "Unknown"),
        node("node4", "True"),
        labelled("node6", "Unknown"),
    ];
    let health = |desired, pods: &[Pod]| {
        of_daemon_set(&choosy(desired), pods.iter(), find(&nodes), Some((now(), "refused")), now())
    };
    let leaving = |name: &str| {
        let mut pod = pod(name, "False", NOW, "");
        pod.metadata.deletion_timestamp = Some(Time(now()));
        pod
    };
    let broken = || pod("node2", "False", "2030-01-01T00:09:59Z", "");
    let others = || [leaving("node3"), ready("node4"), ready("node5")];
    let seen = health(2, &[[ready("node1"), broken()].as_slice(), &others()].concat());
    assert_eq!((seen.serves(), seen.ready, seen.wanted), (false, 1, 2));
    assert_eq!((seen.excused.len(), seen.rolling_out), (0, false), "{seen:?}");
    let seen = health(2, &[[ready("node1")].as_slice(), &others()].concat());
    let refused = Trouble { cause: Cause::PodRefused, message: "DaemonSet speaker: refused".to_owned() };
    assert_eq!(seen.troubles, [refused], "one is lacking");
    let seen = health(3, &[ready("node1"), ready("node2"), leaving("node6")]);
    assert!(seen.serves(), "{seen:?}");
    assert_eq!(seen.excused, ["node6".to_owned()].into());
}

#[test]
fn an_outdated_pod_on_a_ready_node_is_a_rollout_and_a_missing_one_is_not() {
    let mut outdated = ready("node2");
    outdated.labels_mut().insert("pod-template-generation".to_owned(), "1".to_owned());
    let health = speakers(&daemon_set(3, 2), &[ready("node1"), outdated]);
    assert!(health.serves() && health.rolling_out, "{health:?}");
    let health = speakers(&daemon_set(3, 2), &[ready("node1")]);
    assert!(!health.serves() && !health.rolling_out, "{health:?}");
    let mut outdated = pod("node3", "False", NOW, "");
    outdated.labels_mut().insert("pod-template-generation".to_owned(), "1".to_owned());
    let health = speakers(&daemon_set(3, 2), &[ready("node1"), outdated]);
    assert!(health.serves() && !health.rolling_out, "a lost node holds no rollout up: {health:?}");
}

#[test]
fn after_a_change_was_taken_back_pods_that_were_never_replaced_are_right() {
    let of = |node: &str, generation: &str, revision: &str| {
        let mut pod = ready(node);
        let labels = [("pod-template-generation", generation), ("controller-revision-hash", revision)];
        pod.labels_mut().extend(labels.map(|(name, value)| (name.to_owned(), value.to_owned())));
        pod
    };
    let updated = |number: i32| {
        let mut set = daemon_set(3, 2);
        set.status.as_mut().unwrap().updated_number_scheduled = Some(number);
        set
    };
    let is_rolling_out = |set: &DaemonSet, pods: &[Pod]| speakers(set, pods).rolling_out;
    let replaced = of("node1", "2", "old");
    assert!(
        !is_rolling_out(&updated(1), &[replaced.clone(), of("node2", "1", "old")]),
        "of the revision that the newest pod has"
    );
    assert!(is_rolling_out(&updated(1), &[replaced, of("node2", "1", "older")]));
    let kept = [of("node1", "1", "old"), of("node2", "1", "old")];
    assert!(!is_rolling_out(&updated(2), &kept), "the cluster says that both are right");
    assert!(is_rolling_out(&updated(0), &kept));
}

#[test]
fn a_pod_that_cannot_leave_a_lost_node_holds_nothing_up() {
    let mut leaving = pod("node3", "False", NOW, "");
    leaving.labels_mut().insert("pod-template-generation".to_owned(), "1".to_owned());
    leaving.metadata.deletion_timestamp = Some(Time(now()));
    let health = speakers(&daemon_set(3, 3), &[ready("node1"), ready("node2"), leaving]);
    assert!(health.serves() && !health.rolling_out, "{health:?}");
    assert_eq!(health.excused, ["node3".to_owned()].into());
}

#[test]
fn the_cause_is_read_from_the_pod() {
    let unschedulable = || {
        let mut pod = pod("node2", "False", NOW, "");
        pod.status = serde_saphyr::from_str(
            "{conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: no room}]}",
        )
        .unwrap();
        pod
    };
    let crash = {
        let state = "state: {waiting: {reason: CrashLoopBackOff, message: back-off 10s}}, lastState: {terminated: \
                     {exitCode: 1, reason: Error}}";
        let container = format!("{{name: c, ready: false, image: i, imageID: '', restartCount: 4, {state}}}");
        pod("node2", "False", NOW, &format!(", containerStatuses: [{container}]"))
    };
    let restarting = { restarted("2030-01-01T00:09:40Z", "2030-01-01T00:09:50Z") };
    let at = "pod speaker-node2 on node node2: ";
    let table = [
        (waiting("node2", "ErrImagePull", "not found"), Cause::ImagePull, "ErrImagePull: not found"),
        (waiting("node2", "InvalidImageName", ""), Cause::ImagePull, "InvalidImageName"),
        (restarting, Cause::CrashLoop, "CrashLoopBackOff: OOMKilled, exit code 137, 2 restarts"),
        (crash, Cause::CrashLoop, "CrashLoopBackOff: Error, exit code 1, 4 restarts"),
        (
            waiting("node2", "CreateContainerConfigError", "no key"),
            Cause::ContainerConfig,
            "CreateContainerConfigError: no key",
        ),
        (unschedulable(), Cause::Unschedulable, "Unschedulable: no room"),
        (
            pod("node2", "False", NOW, ", phase: Failed, reason: NodePorts, message: taken"),
            Cause::PodRefused,
            "NodePorts: taken",
        ),
    ];
    for (pod, cause, says) in table {
        let health = speakers(&daemon_set(3, 2), &[ready("node1"), pod]);
        assert_eq!(health.troubles, [Trouble { cause, message: format!("{at}{says}") }]);
        assert!(!health.serves());
    }
}

/// A pod whose program was restarted twice; it ran from `began` to `ended` before that.
fn restarted(began: &str, ended: &str) -> Pod {
    let end = format!("exitCode: 137, reason: OOMKilled, startedAt: '{began}', finishedAt: '{ended}'");
    let state = format!("state: {{running: {{}}}}, lastState: {{terminated: {{{end}}}}}");
    let container = format!("{{name: c, ready: false, image: i, imageID: '', restartCount: 2, {state}}}");
    pod("node2", "False", NOW, &format!(", containerStatuses: [{container}]"))
}

#[test]
fn a_restart_is_a_crash_loop_only_when_the_program_ended_soon_after_it_began_and_just_now() {
    let of = |began, ended| {
        let health = speakers(&daemon_set(3, 2), &[ready("node1"), restarted(began, ended)]);
        health.troubles.iter().any(|trouble| trouble.cause == Cause::CrashLoop)
    };
    for (what, began, ended, want) in [
        ("again and again", "2030-01-01T00:09:40Z", "2030-01-01T00:09:50Z", true),
        ("its clock is ahead", "2030-01-01T00:10:40Z", "2030-01-01T00:10:50Z", true),
        (
            "its node was rebooted for the third time in a year",
            "2029-10-01T00:00:00Z",
            "2030-01-01T00:09:50Z",
            false,
        ),
        (
            "it ran for three days and ran out of memory",
            "2029-12-29T00:00:00Z",
            "2030-01-01T00:09:58Z",
            false,
        ),
        ("it could not be started at all", "1970-01-01T00:00:00Z", "2030-01-01T00:09:50Z", true),
        ("that was long ago", "2029-12-31T00:00:00Z", "2029-12-31T00:00:10Z", false),
    ] {
        assert_eq!(of(began, ended), want, "{what}");
    }
}

#[test]
fn a_pod_that_comes_and_goes_makes_no_progress() {
    let of = |restarts: u8, began: &str| {
        let state = format!("state: {{running: {{startedAt: '{began}'}}}}");
        let container =
            format!("{{name: c, ready: true, image: i, imageID: '', restartCount: {restarts}, {state}}}");
        let mut pod =
            pod("node2", "True", "2030-01-01T00:09:00Z", &format!(", containerStatuses: [{container}]"));
        pod.metadata.creation_timestamp = Some(Time("2030-01-01T00:00:00Z".parse().unwrap()));
        speakers(&daemon_set(3, 1), &[pod]).progress.last.unwrap().to_string()
    };
    assert_eq!(of(0, "2030-01-01T00:08:55Z"), "2030-01-01T00:09:10Z", "and has been ready for 10 s");
    assert_eq!(of(1, "2030-01-01T00:08:55Z"), "2030-01-01T00:00:00Z", "its program ended");
    assert_eq!(of(0, "2030-01-01T00:00:05Z"), "2030-01-01T00:00:00Z", "it was ready before, or is late");
}

#[test]
fn a_node_whose_clock_runs_ahead_puts_no_stall_off() {
    let of = |since: &str| {
        let mut pod = pod("node2", "True", since, "");
        pod.metadata.creation_timestamp = Some(Time("2030-01-01T00:00:00Z".parse().unwrap()));
        speakers(&daemon_set(3, 1), &[pod]).progress.last.unwrap().to_string()
    };
    assert_eq!(of("2030-01-01T00:10:00Z"), "2030-01-01T00:10:10Z", "ready just now");
    assert_eq!(of("2030-01-01T01:00:00Z"), "2030-01-01T00:00:00Z", "only its making counts");
}

#[test]
fn pods_with_the_same_trouble_are_told_of_together() {
    let nodes: Vec<Node> = (1..=8).map(|at| node(&format!("node{at}"), "True")).collect();
    let pods: Vec<Pod> = (1..=7)
        .map(|at| waiting(&format!("node{at}"), "ErrImagePull", "no such image"))
        .chain([waiting("node8", "ErrImagePull", "no route to the registry")])
        .collect();
    let health = of_daemon_set(&daemon_set(3, 8), pods.iter(), find(&nodes), None, now());
    let told: Vec<_> = health.troubles.iter().map(|trouble| trouble.message.as_str()).collect();
    assert_eq!(
        told,
        [
            "pod speaker-node8 on node node8: ErrImagePull: no route to the registry",
            "pod speaker-node1 on node node1, pod speaker-node2 on node node2, pod speaker-node3 on node node3, pod \
             speaker-node4 on node node4, pod speaker-node5 on node node5 and 2 more: ErrImagePull: no such image",
        ]
    );
}

#[test]
fn a_pod_that_cannot_be_made_is_told_until_one_is() {
    let refused_at = |time: &str, pods: &[Pod]| {
        let refusal = (time.parse().unwrap(), "pods \"speaker-\" is forbidden");
        let set = daemon_set(3, 2);
        of_daemon_set(&set, pods.iter(), find(&nodes()), Some(refusal), now()).troubles
    };
    let made = |node: &str| {
        let mut pod = ready(node);
        pod.metadata.creation_timestamp = Some(Time("2030-01-01T00:05:00Z".parse().unwrap()));
        pod
    };
    let message = "DaemonSet speaker: pods \"speaker-\" is forbidden".to_owned();
    let trouble = [Trouble { cause: Cause::PodRefused, message }];
    assert_eq!(refused_at("2030-01-01T00:06:00Z", &[made("node1")]), trouble);
    assert_eq!(refused_at("2030-01-01T00:04:00Z", &[made("node1")]), [], "one was made after it");
    assert_eq!(refused_at("2030-01-01T00:06:00Z", &[made("node1"), made("node2")]), [], "none is lacking");
}

#[test]
fn a_pod_that_starts_is_given_two_minutes() {
    let starting = |since: &str| {
        let mut pod = waiting("node2", "ContainerCreating", "");
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time =
            Some(Time(since.parse().unwrap()));
        speakers(&daemon_set(3, 2), &[ready("node1"), pod])
    };
    let early = starting("2030-01-01T00:08:01Z");
    assert_eq!(
        (early.troubles, early.patience_ends),
        (vec![], Some("2030-01-01T00:10:01Z".parse().unwrap()))
    );
    let late = starting("2030-01-01T00:08:00Z");
    assert_eq!(late.patience_ends, None);
    assert_eq!(
        late.troubles,
        [Trouble {
            cause: Cause::NotReady,
            message: "pod speaker-node2 on node node2: not ready for more than 120 s: ContainerCreating"
                .to_owned()
        }]
    );
}

#[test]
fn a_pod_that_is_not_placed_belongs_to_the_node_that_it_was_made_for() {
    let mut pending = pod("node3", "False", NOW, "");
    pending.spec = serde_saphyr::from_str(
        "{containers: [], affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
         {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [node3]}]}]}}}}",
    )
    .unwrap();
    let health = speakers(&daemon_set(3, 2), &[ready("node1"), pending]);
    assert_eq!(health.excused, ["node3".to_owned()].into());
    assert!(health.serves());
}

fn deployment(status: &str, replicas: i32) -> Deployment {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: controller, generation: 5}}, spec: {{replicas: {replicas}, selector: {{}}, template: {{}}}}, \
         status: {{{status}}}}}"
    ))
    .unwrap()
}

#[test]
fn the_controller_serves_when_as_many_are_ready_as_are_wanted_of_whatever_version() {
    let health = |status: &str, replicas| {
        of_deployment(&deployment(status, replicas), std::iter::empty(), find(&nodes()), now())
    };
    let good = health("observedGeneration: 5, replicas: 1, updatedReplicas: 1, readyReplicas: 1", 1);
    assert!(good.serves() && !good.rolling_out, "{good:?}");
    let table = [
        (
            "stale",
            health("observedGeneration: 4, replicas: 1, updatedReplicas: 1, readyReplicas: 1", 1),
            (true, true),
        ),
        (
            "old version",
            health("observedGeneration: 5, replicas: 1, updatedReplicas: 0, readyReplicas: 1", 1),
            (true, true),
        ),
        ("not ready", health("observedGeneration: 5, replicas: 1, updatedReplicas: 1", 1), (false, false)),
        (
            "one of two",
            health("observedGeneration: 5, replicas: 2, updatedReplicas: 2, readyReplicas: 1", 2),
            (false, false),
        ),
        ("nothing yet", health("", 1), (false, true)),
        ("scaled to zero", health("observedGeneration: 5", 0), (false, false)),
    ];
    for (name, health, (serves, rolling_out)) in table {
        assert_eq!(health.serves(), serves, "{name}: {health:?}");
        assert_eq!(health.rolling_out, rolling_out, "{name}: {health:?}");
    }
    let refused = health(
        "observedGeneration: 5, conditions: [{type: ReplicaFailure, status: 'True', reason: FailedCreate, message: \
         forbidden by policy}]",
        1,
    );
    let message = "Deployment controller: forbidden by policy".to_owned();
    assert_eq!(refused.troubles, [Trouble { cause: Cause::PodRefused, message }]);
}

#[test]
fn a_controller_that_was_evicted_is_no_trouble_once_another_one_was_made() {
    let of = |made: &str, status: &str| -> Pod {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: controller-{made}, creationTimestamp: '2030-01-01T00:0{made}:00Z'}}, spec: {{nodeName: \
             node1, containers: []}}, status: {{{status}}}}}"
        ))
        .unwrap()
    };
    let ready = "phase: Running, conditions: [{type: Ready, status: 'True'}]";
    let evicted = "phase: Failed, reason: Evicted, message: low on memory";
    let causes = |pods: &[Pod]| {
        let status =
            "observedGeneration: 5, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1";
        let health = of_deployment(&deployment(status, 1), pods.iter(), find(&nodes()), now());
        health.troubles.iter().map(|trouble| trouble.cause).collect::<Vec<_>>()
    };
    assert_eq!(causes(&[of("1", evicted), of("2", ready)]), []);
    assert_eq!(causes(&[of("1", "phase: Succeeded"), of("2", ready)]), []);
    assert_eq!(causes(&[of("1", evicted)]), [Cause::PodRefused], "no other one was made");
    assert_eq!(causes(&[of("1", ready), of("2", evicted)]), [Cause::PodRefused], "the newer one was refused");
}

#[test]
fn what_is_ready_settles_for_a_while() {
    let of = |available: u8| {
        let status = format!(
            "observedGeneration: 5, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: {available}"
        );
        of_deployment(&deployment(&status, 1), std::iter::empty(), find(&nodes()), now())
    };
    assert_eq!((of(0).serves(), of(0).settling, of(1).settling), (true, true, false));
    let mut set = daemon_set(3, 2);
    let status = set.status.as_mut().unwrap();
    (status.number_ready, status.number_available) = (2, Some(1));
    assert!(speakers(&set, &[ready("node1"), ready("node2")]).settling);
}

#[test]
fn a_rollout_is_held_up_by_a_pod_that_could_start_and_not_by_its_node() {
    let lags = |nodes: &[Node], pod: Pod| {
        let pods = [ready("node1"), pod];
        of_daemon_set(&daemon_set(3, 2), pods.iter(), find(nodes), None, now()).progress.lags
    };
    let pulling = || {
        let mut pod = waiting("node2", "ContainerCreating", "");
        pod.spec =
            serde_saphyr::from_str("{nodeName: node2, containers: [{name: c, image: 'speaker:2'}]}").unwrap();
        pod
    };
    let with = |status: &str, spec: &str| {
        let mut node = node("node2", "True");
        let images = serde_saphyr::from_str::<Node>(&format!(
            "{{spec: {spec}, status: {{images: [{{names: {status}}}]}}}}"
        ))
        .unwrap();
        node.spec = images.spec;
        node.status.as_mut().unwrap().images = images.status.unwrap().images;
        trim(&mut node);
        vec![super::tests::node("node1", "True"), node]
    };
    let failing = || {
        let mut pod = pulling();
        pod.status = waiting("node2", "ErrImagePull", "no such image").status;
        pod
    };
    assert!(lags(&with("['speaker:2']", "{}"), pulling()), "the image is there");
    assert!(!lags(&with("['speaker:1']", "{}"), pulling()), "the image is being pulled");
    assert!(lags(&with("['speaker:1']", "{}"), failing()), "the image cannot be pulled");
    assert!(!lags(&with("['speaker:2']", "{unschedulable: true}"), pulling()), "the node is cordoned");
    let unknown = || vec![node("node1", "True"), node("node2", "True")];
    assert!(!lags(&unknown(), pulling()), "it may be being pulled: the kubelet does not list it");
    let mut long = pulling();
    long.metadata.creation_timestamp = Some(Time("2030-01-01T00:00:01Z".parse().unwrap()));
    let [node1, node2] = [node("node1", "True"), node("node2", "True")];
    let pods = [ready("node1"), long.clone()];
    let health = of_daemon_set(&daemon_set(3, 2), pods.iter(), find(&[node1, node2]), None, now());
    assert_eq!(
        health.patience_ends,
        Some("2030-01-01T00:10:01Z".parse().unwrap()),
        "it is looked again then"
    );
    long.metadata.creation_timestamp = Some(Time("2030-01-01T00:00:00Z".parse().unwrap()));
    assert!(lags(&unknown(), long), "for ten minutes: something else may be missing");
    let begun = || {
        let mut pod = pulling();
        pod.status = waiting("node2", "Other", "").status;
        pod
    };
    assert!(lags(&unknown(), begun()), "it waits for something else");
    let lost = pod("node3", "False", NOW, "");
    assert!(!lags(&nodes(), lost), "the node is lost");
}
