use super::*;
use serde_json::json;

const ME: &str = "metallb-operator";

fn wanted() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "speaker", "namespace": "metallb-system", "labels": {"app": "metallb"},
                     "finalizers": ["a"]},
        "spec": {"template": {"spec": {
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [{"name": "speaker", "image": "speaker:1", "args": ["--port=9120"],
                            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]
        }}}
    })
}

/// As the API server answers [`wanted`]: defaults filled in, owners recorded.
fn live() -> Value {
    let container = json!({
        ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
        "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}},
                  "k:{\"name\":\"B\"}": {".": {}, "f:name": {}, "f:value": {}}}
    });
    let mut live = wanted();
    live["metadata"]["uid"] = json!("1");
    live["metadata"]["annotations"] = json!({"deprecated.daemonset.template.generation": "1"});
    live["metadata"]["managedFields"] = json!([
        {"manager": ME, "operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": {
            "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"a\"": {}}},
            "f:spec": {"f:template": {"f:spec": {
                "f:nodeSelector": {},
                "f:volumes": {"k:{\"name\":\"tmp\"}": {".": {}, "f:name": {}, "f:emptyDir": {}}},
                "f:containers": {"k:{\"name\":\"speaker\"}": container}}}}}},
        {"manager": ME, "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {"f:x": {}}}}
    ]);
    let pod = &mut live["spec"]["template"]["spec"];
    pod["restartPolicy"] = json!("Always");
    pod["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    pod["volumes"][0]["emptyDir"] = json!({"sizeLimit": "1Gi"});
    live["status"] = json!({"x": 1});
    live
}

#[test]
fn defaults_and_fields_of_others_are_no_difference() {
    let mut live = live();
    assert_eq!(difference(&wanted(), &live, ME), None);
    let template = &mut live["spec"]["template"];
    template["metadata"] = json!({"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}});
    let containers = template["spec"]["containers"].as_array_mut().unwrap();
    containers.insert(0, json!({"name": "injected", "image": "side-car"}));
    containers[1]["env"].as_array_mut().unwrap().reverse();
    assert_eq!(difference(&wanted(), &live, ME), None);
}

#[test]
fn each_kind_of_change_is_found_and_named() {
    let pod = "spec.template.spec";
    let speaker = format!("{pod}.containers[name=speaker]");
    type Change = fn(&mut Value);
    let table: [(&str, Change, String, Value, Value); 8] = [
        (
            "a leaf is changed",
            |live| live["spec"]["template"]["spec"]["containers"][0]["image"] = json!("speaker:2"),
            format!("{speaker}.image"),
            json!("speaker:1"),
            json!("speaker:2"),
        ),
        (
            "an atomic list grows",
            |live| {
                live["spec"]["template"]["spec"]["containers"][0]["args"] = json!(["--port=9120", "-v"]);
            },
            format!("{speaker}.args"),
            json!(["--port=9120"]),
            json!(["--port=9120", "-v"]),
        ),
        (
            "an atomic map grows",
            |live| live["spec"]["template"]["spec"]["nodeSelector"]["gone"] = json!("x"),
            format!("{pod}.nodeSelector"),
            json!({"kubernetes.io/os": "linux"}),
            json!({"kubernetes.io/os": "linux", "gone": "x"}),
        ),
        (
            "an item of a keyed list is removed",
            |live| {
                let env = &mut live["spec"]["template"]["spec"]["containers"][0]["env"];
                env.as_array_mut().unwrap().remove(1);
            },
            format!("{speaker}.env[name=B]"),
            json!({"name": "B", "value": "2"}),
            Value::Null,
        ),
        (
            "a label is removed",
            |live| live["metadata"]["labels"] = json!({}),
            "metadata.labels.app".to_owned(),
            json!("metallb"),
            Value::Null,
        ),
        (
            "a member of a set is removed",
            |live| live["metadata"]["finalizers"] = json!([]),
            "metadata.finalizers[\"a\"]".to_owned(),
            json!("a"),
            Value::Null,
        ),
        (
            "a field is owned that is wanted no longer",
            |live| {
                let fields = &mut live["metadata"]["managedFields"][0]["fieldsV1"];
                fields["f:spec"]["f:template"]["f:spec"]["f:priorityClassName"] = json!({});
                live["spec"]["template"]["spec"]["priorityClassName"] = json!("high");
            },
            format!("{pod}.priorityClassName"),
            Value::Null,
            json!("high"),
        ),
        (
            "nothing was ever applied",
            |live| live["metadata"]["managedFields"] = json!([]),
            "metadata.finalizers".to_owned(),
            json!(["a"]),
            json!(["a"]),
        ),
    ];
    for (name, change, field, want, found) in table {
        let mut live = live();
        change(&mut live);
        let got = difference(&wanted(), &live, ME).unwrap_or_else(|| panic!("{name}: no difference"));
        assert_eq!(got.field, field, "{name}");
        assert_eq!(got.wanted.unwrap_or_default(), want, "{name}");
        assert_eq!(got.found.unwrap_or_default(), found, "{name}");
    }
}

#[test]
fn an_object_of_which_only_one_field_is_applied_is_compared_by_that_field() {
    let wanted = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"x": 1}});
    let mut live = json!({"metadata": {"name": "a", "resourceVersion": "2", "labels": {"b": "c"}, "managedFields": [
        {"manager": ME, "operation": "Apply", "fieldsV1": {"f:spec": {"f:x": {}}}}]}, "spec": {"x": 1, "y": 2}});
    assert_eq!(difference(&wanted, &live, ME), None);
    live["spec"]["x"] = json!(3);
    assert_eq!(difference(&wanted, &live, ME).map(|difference| difference.field), Some("spec.x".to_owned()));
}

#[test]
fn secret_values_are_not_shown() {
    let secret = |text: &str| Some(json!({ "secretkey": text }));
    let difference =
        Difference { field: "data".to_owned(), wanted: secret("abc"), found: secret("abd"), owner: None };
    let concealed = difference.concealed();
    let text = concealed.to_string();
    assert!(!text.contains("abc") && !text.contains("abd") && !text.contains("secretkey"), "{text}");
    assert_ne!(concealed.wanted, concealed.found);
}

#[test]
fn who_took_a_field_over_is_named() {
    let mut live = live();
    let fields = &mut live["metadata"]["managedFields"];
    let container = &mut fields[0]["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"speaker\"}"];
    container.as_object_mut().unwrap().remove("f:image");
    fields.as_array_mut().unwrap().push(json!({
        "manager": "kubectl-set", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {
            "f:containers": {"k:{\"name\":\"speaker\"}": {"f:image": {}}}}}}}
    }));
    live["spec"]["template"]["spec"]["containers"][0]["image"] = json!("mine");
    let difference = difference(&wanted(), &live, ME).unwrap();
    assert_eq!(
        difference.to_string(),
        "spec.template.spec.containers[name=speaker].image is \"mine\" instead of \"speaker:1\", \
         set by kubectl-set"
    );
}
