//! What the programs need of the cluster that the installation brings and the operator may not make: accounts, rights and
//! custom resources.
//!
//! Pure. The needs are the rules of `config/rbac` themselves; whether they are met is asked of the API server, so that
//! it does not matter under which names an installer granted them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use metallb_api::{MetalLB, address_pool::v1beta1::AddressPool};
use serde::Deserialize;

/// The rules of each program, as they are installed.
const RULES: [(&str, &str); 3] = [
    ("controller", include_str!("../../config/rbac/controller.yaml")),
    ("speaker", include_str!("../../config/rbac/speaker.yaml")),
    ("manager-account", include_str!("../../config/rbac/manager.yaml")),
];
/// Security context constraints of `config/openshift` and of OpenShift itself, by which the pods are admitted.
pub const CONSTRAINTS: [&str; 2] = ["metallb-speaker", "nonroot-v2"];
/// The definition that has objects converted by a webhook where MetalLB brought it.
pub const PEERS: &str = "bgppeers.metallb.io";
/// Account of the operator itself, which may have another name.
const SELF: &str = "manager-account";

/// Who needs a right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// A ServiceAccount in the operator's namespace.
    Named(&'static str),
    /// The operator.
    Own,
}

/// A right that a program needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// Who needs it.
    pub account: Account,
    /// Whether in all namespaces.
    pub everywhere: bool,
    /// API group.
    pub group: String,
    /// Resource, with its subresource behind a slash.
    pub resource: String,
    /// Name of the one object, if only one is needed.
    pub name: Option<String>,
    /// What is to be done with it.
    pub verb: String,
}

#[derive(Deserialize)]
struct Role {
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    api_groups: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// Groups of which a cluster need not know anything.
const OPTIONAL: [&str; 4] =
    ["apps.openshift.io", "security.openshift.io", "monitoring.coreos.com", "frrk8s.metallb.io"];

/// All needs.
///
/// # Errors
/// When the rules are not YAML; a test shows that they are.
pub fn all() -> Result<BTreeSet<Need>, String> {
    let mut needs = BTreeSet::new();
    for (account, text) in RULES {
        let account = if account == SELF { Account::Own } else { Account::Named(account) };
        for document in text.split("\n---\n") {
            let role: Role = serde_saphyr::from_str(document).map_err(|error| error.to_string())?;
            let everywhere = role.kind == "ClusterRole";
            for rule in &role.rules {
                needs.extend(rule.needs(&account, everywhere));
            }
        }
    }
    Ok(needs)
}

impl Rule {
    fn needs(&self, account: &Account, everywhere: bool) -> Vec<Need> {
        let names: Vec<_> = match self.resource_names.as_slice() {
            [] => vec![None],
            names => names.iter().cloned().map(Some).collect(),
        };
        let mut needs = Vec::new();
        for group in self.api_groups.iter().filter(|group| !OPTIONAL.contains(&group.as_str())) {
            for resource in &self.resources {
                for name in &names {
                    needs.extend(self.verbs.iter().map(|verb| Need {
                        account: account.clone(),
                        everywhere,
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                        verb: verb.clone(),
                    }));
                }
            }
        }
        needs
    }
}

/// Accounts that are needed, beside the operator's own.
pub fn accounts(needs: &BTreeSet<Need>) -> BTreeSet<&'static str> {
    let named = needs.iter().filter_map(|need| match need.account {
        Account::Named(name) => Some(name),
        Account::Own => None,
    });
    named.collect()
}

/// Custom resources of metallb.io that are needed.
pub fn custom_resources(needs: &BTreeSet<Need>) -> BTreeSet<&str> {
    let ours = needs.iter().filter(|need| need.group == metallb_api::names::GROUP);
    ours.filter_map(|need| need.resource.split('/').next()).collect()
}

/// One need of each account and scope, another one each `round`. That a binding is missing shows at once this way, and that
/// a rule is missing after as many rounds as there are rules, for a handful of questions.
#[must_use]
pub fn sample(needs: &BTreeSet<Need>, round: usize) -> BTreeSet<Need> {
    let mut bindings: BTreeMap<(&Account, bool), Vec<&Need>> = BTreeMap::new();
    for need in needs {
        bindings.entry((&need.account, need.everywhere)).or_default().push(need);
    }
    let drawn = bindings.into_values().filter_map(|of| of.get(round.checked_rem(of.len())?).copied());
    drawn.cloned().collect()
}

/// What the cluster lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacks<'a> {
    /// Custom resources of metallb.io.
    pub resources: BTreeSet<&'a str>,
    /// ServiceAccounts.
    pub accounts: BTreeSet<&'a str>,
    /// Rights.
    pub rights: Vec<Need>,
}

/// What came of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What is missing, for people.
    pub missing: Vec<String>,
    /// What is missing, for people, should pods be refused: an administrator may have admitted them in another way.
    pub for_pods: Vec<String>,
    /// Definitions of an older version, for people: what they do not know of an object is lost.
    pub outdated: Vec<String>,
    /// The Service that converts BGPPeers, as the definition says that an older installation brought.
    pub converter: Option<Converter>,
}

impl Found {
    /// What is known while nothing could be asked: nothing is changed until it can.
    #[must_use]
    pub fn unasked(error: &str) -> Self {
        Self { missing: vec![told_of_unasked("what the programs need", error)], ..Self::default() }
    }

    /// Whether there is nothing to wait for. What pods may be admitted without is not waited for.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.missing.is_empty() && self.outdated.is_empty() && self.converter.is_none()
    }
}

/// Tells that it cannot be asked about `what`.
#[must_use]
pub fn told_of_unasked(what: &str, error: &str) -> String {
    format!("it cannot be asked whether {what} is there: {error}")
}

/// A Service by which the API server has objects converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converter {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Fields below spec and status, by kind.
pub type Fields = BTreeMap<String, BTreeSet<String>>;

/// The fields of the operator's own resources, of which it would not work without knowing.
#[must_use]
pub fn fields() -> Fields {
    let definitions = [MetalLB::crd(), AddressPool::crd()];
    let of = |definition: CustomResourceDefinition| {
        let schema = definition.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()?;
        let mut fields = BTreeSet::new();
        for part in ["spec", "status"] {
            let properties = schema.properties.as_ref()?.get(part).and_then(|part| part.properties.as_ref());
            fields.extend(properties.into_iter().flatten().map(|(field, _)| format!("{part}.{field}")));
        }
        Some((definition.spec.names.kind, fields))
    };
    definitions.into_iter().filter_map(of).collect()
}

/// Tells of which kinds `served`, as the API server describes them, lacks fields that are `wanted`. A kind that it does not
/// describe is not judged.
#[must_use]
pub fn told_of_outdated(wanted: &Fields, served: &Fields) -> Vec<String> {
    let lacking = wanted.iter().filter_map(|(kind, wanted)| {
        let lacking: Vec<&str> = wanted.difference(served.get(kind)?).map(String::as_str).collect();
        let (shown, more) = lacking.split_at(lacking.len().min(3));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        (!lacking.is_empty()).then(|| {
            format!(
                "the CustomResourceDefinition of {kind} is of an older version, by which {}{more} are lost: apply the \
                 definitions of this one",
                shown.join(", ")
            )
        })
    });
    lacking.collect()
}

/// Tells that a definition asks `converter`, which nobody who is left of this installation answers for.
#[must_use]
pub fn told_of_converter(converter: &Converter) -> String {
    format!(
        "CustomResourceDefinition {PEERS} has Service {}/{} convert BGPPeers, as an older installation brought it: apply the \
         definitions of this one",
        converter.namespace, converter.name
    )
}

/// Tells that there is no security context constraint `name`.
#[must_use]
pub fn told_of_constraint(name: &str) -> String {
    format!(
        "SecurityContextConstraints {name} is missing, by which OpenShift admits the pods: apply config/openshift/scc.yaml"
    )
}

/// Tells that the operator may not look for the security context constraint `name`.
#[must_use]
pub fn told_of_hidden_constraint(name: &str) -> String {
    format!(
        "the operator may not get securitycontextconstraints.security.openshift.io {name}, by which OpenShift admits the \
         pods: a rule of its role, or the binding, is missing"
    )
}

/// Tells what is missing, one line for each account and resource.
#[must_use]
pub fn told_of_lacks(lacks: &Lacks<'_>) -> Vec<String> {
    let resources = lacks.resources.iter().map(|resource| {
        format!("CustomResourceDefinition {resource}.{} is missing", metallb_api::names::GROUP)
    });
    let accounts = lacks
        .accounts
        .iter()
        .map(|name| format!("ServiceAccount {name} is missing: its pods cannot be made"));
    let mut lines: Vec<_> = resources.chain(accounts).collect();
    let mut rights: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut order = Vec::new();
    for need in &lacks.rights {
        let account = match need.account {
            Account::Named(name) => format!("ServiceAccount {name}"),
            Account::Own => "the operator".to_owned(),
        };
        let resource = match need.group.as_str() {
            "" => need.resource.clone(),
            group => format!("{}.{group}", need.resource),
        };
        let place = if need.everywhere { " in the cluster" } else { "" };
        let name = need.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let what = format!("{resource}{name}{place}");
        let key = format!("{account}\n{what}");
        if !rights.contains_key(&key) {
            order.push((key.clone(), account, what));
        }
        rights.entry(key).or_default().push(&need.verb);
    }
    lines.extend(order.into_iter().map(|(key, account, what)| {
        let verbs = rights.get(&key).map(|verbs| verbs.join(", ")).unwrap_or_default();
        format!("{account} may not {verbs} {what}: a rule of its role, or the binding, is missing")
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_all_programs_are_needs() {
        let needs = all().unwrap();
        let need = |account, everywhere, group: &str, resource: &str, verb: &str| Need {
            account,
            everywhere,
            group: group.to_owned(),
            resource: resource.to_owned(),
            name: None,
            verb: verb.to_owned(),
        };
        let table = [
            need(Account::Named("controller"), true, "", "services/status", "patch"),
            need(Account::Named("speaker"), true, "discovery.k8s.io", "endpointslices", "watch"),
            need(Account::Named("speaker"), false, "metallb.io", "servicel2statuses/status", "patch"),
            need(Account::Own, false, "apps", "daemonsets", "create"),
        ];
        for need in table {
            assert!(needs.contains(&need), "{need:?}");
        }
        assert!(needs.iter().all(|need| need.group != "monitoring.coreos.com"));
        assert_eq!(accounts(&needs), ["controller", "speaker"].into());
        let resources = custom_resources(&needs);
        assert!(resources.contains("bgppeers") && resources.contains("metallbs"), "{resources:?}");
    }

    #[test]
    fn each_binding_is_asked_about_each_round_and_each_rule_in_turn() {
        let needs = all().unwrap();
        let bindings: BTreeSet<_> = needs.iter().map(|need| (&need.account, need.everywhere)).collect();
        let mut drawn = BTreeSet::new();
        for round in 0..needs.len() {
            let sample = sample(&needs, round);
            let of: BTreeSet<_> = sample.iter().map(|need| (&need.account, need.everywhere)).collect();
            assert_eq!((sample.len(), &of), (bindings.len(), &bindings), "round {round}");
            drawn.extend(sample.clone());
        }
        assert_eq!((drawn, bindings.len()), (needs, 6));
        assert_eq!(sample(&BTreeSet::new(), 3), BTreeSet::new());
    }

    #[test]
    fn what_pods_may_be_admitted_without_is_not_waited_for() {
        let converter = Converter { namespace: "ns".to_owned(), name: "webhooks".to_owned() };
        let line = || vec!["no".to_owned()];
        for (found, is_met) in [
            (Found::default(), true),
            (Found { for_pods: line(), ..Found::default() }, true),
            (Found { missing: line(), ..Found::default() }, false),
            (Found { outdated: line(), ..Found::default() }, false),
            (Found { converter: Some(converter), ..Found::default() }, false),
        ] {
            assert_eq!(found.is_met(), is_met, "{found:?}");
        }
    }

    #[test]
    fn a_definition_that_does_not_know_a_field_is_told() {
        let wanted = fields();
        assert!(wanted["MetalLB"].contains("spec.managementState"), "{wanted:?}");
        assert!(wanted["AddressPool"].contains("spec.protocol"), "{wanted:?}");
        assert_eq!(told_of_outdated(&wanted, &wanted), Vec::<String>::new());
        assert_eq!(told_of_outdated(&wanted, &Fields::new()), Vec::<String>::new(), "not described");
        let mut served = wanted.clone();
        let of_metallb = served.get_mut("MetalLB").unwrap();
        of_metallb.remove("spec.managementState");
        of_metallb.insert("spec.ofAnotherVersion".to_owned());
        assert_eq!(
            told_of_outdated(&wanted, &served),
            [
                "the CustomResourceDefinition of MetalLB is of an older version, by which spec.managementState are lost: \
              apply the definitions of this one"
            ]
        );
        served.get_mut("MetalLB").unwrap().clear();
        assert!(told_of_outdated(&wanted, &served)[0].contains(" more are lost"));
    }

    #[test]
    fn what_is_missing_is_told_in_one_line_a_resource() {
        let need = |verb: &str| Need {
            account: Account::Named("speaker"),
            everywhere: true,
            group: String::new(),
            resource: "nodes".to_owned(),
            name: None,
            verb: verb.to_owned(),
        };
        let lacks = Lacks {
            resources: ["bgppeers"].into(),
            accounts: ["speaker"].into(),
            rights: vec![need("list"), need("watch")],
        };
        assert_eq!(
            told_of_lacks(&lacks),
            [
                "CustomResourceDefinition bgppeers.metallb.io is missing",
                "ServiceAccount speaker is missing: its pods cannot be made",
                "ServiceAccount speaker may not list, watch nodes in the cluster: a rule of its role, or the binding, \
                 is missing",
            ]
        );
    }
}
