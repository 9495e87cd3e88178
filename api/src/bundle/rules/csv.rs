//! Rules for what the ClusterServiceVersion says about the operator.

use semver::Version;
use serde_json::Value;

use super::{Bundle, Rule, is_name, text};
use crate::bundle::objects::{items, name};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "csv-name",
        source: "api: pkg/validation/internal/csv.go, parseCSVNameFormat; good_practices.go, checkBundleName",
        check: csv_name,
    },
    Rule {
        name: "required-fields",
        source: "api: pkg/operators/v1alpha1/clusterserviceversion_types.go; csv.go, checkFields, validateVersionKind",
        check: required_fields,
    },
    Rule {
        name: "versions",
        source: "api: pkg/validation/internal/csv.go, validateMinKubeVersion; operatorhub.go, checkSpecVersion",
        check: versions,
    },
    Rule {
        name: "install-modes",
        source: "api: pkg/validation/internal/csv.go, validateInstallModes",
        check: install_modes,
    },
    Rule {
        name: "capabilities",
        source: "api: pkg/validation/internal/standardcapabilities.go, standardcategories.go",
        check: capabilities,
    },
    Rule {
        name: "presentation",
        source: "api: pkg/validation/internal/operatorhub.go, checkSpec{ProviderName,Maintainers,Links,Icon}",
        check: presentation,
    },
    Rule {
        name: "maturity",
        source: "docs: ClusterServiceVersion, maturity; https://semver.org, 4: below 1.0.0 nothing is stable",
        check: maturity,
    },
    Rule {
        name: "features",
        source: "OpenShift documentation: infrastructure features, features.operators.openshift.io annotations",
        check: features,
    },
];

const MODES: [&str; 4] = ["AllNamespaces", "MultiNamespace", "OwnNamespace", "SingleNamespace"];

const LEVELS: [&str; 5] =
    ["Basic Install", "Seamless Upgrades", "Full Lifecycle", "Deep Insights", "Auto Pilot"];

const CATEGORIES: [&str; 16] = [
    "AI/Machine Learning",
    "Application Runtime",
    "Big Data",
    "Cloud Provider",
    "Database",
    "Developer Tools",
    "Integration & Delivery",
    "Logging & Tracing",
    "Modernization & Migration",
    "Monitoring",
    "Networking",
    "Observability",
    "OpenShift Optional",
    "Security",
    "Storage",
    "Streaming & Messaging",
];

const ICONS: [&str; 4] = ["image/gif", "image/jpeg", "image/png", "image/svg+xml"];

/// Maturities that promise nothing.
const UNSTABLE: [&str; 6] = ["planning", "pre-alpha", "alpha", "beta", "inactive", "deprecated"];

const STABLE: [&str; 2] = ["stable", "mature"];

const FEATURES: [&str; 7] =
    ["cnf", "cni", "csi", "disconnected", "fips-compliant", "proxy-aware", "tls-profiles"];

fn csv_name(bundle: &Bundle) -> Vec<String> {
    let csv = bundle.csv();
    let mut broken = Vec::new();
    let wanted = format!("{}.v{}", bundle.package(), text(&csv["spec"]["version"]));
    if name(csv) != wanted {
        broken.push(format!("metadata.name: {:?} must be {wanted:?}", name(csv)));
    }
    let replaced = csv["spec"].get("replaces").map(|replaces| ("spec.replaces", text(replaces)));
    for (field, name) in [("metadata.name", name(csv))].into_iter().chain(replaced) {
        if !is_name(name) {
            broken.push(format!("{field}: {name:?} is not the name of an object"));
        }
    }
    broken
}

fn required_fields(bundle: &Bundle) -> Vec<String> {
    let fields = [
        ("/apiVersion", "operators.coreos.com/v1alpha1"),
        ("/kind", "ClusterServiceVersion"),
        ("/spec/displayName", ""),
        ("/spec/description", ""),
        ("/spec/install/strategy", "deployment"),
        ("/spec/install/spec/deployments/0/name", ""),
    ];
    let check = |(path, wanted): (&str, &str)| {
        let found = bundle.csv().pointer(path).and_then(Value::as_str).unwrap_or_default();
        let wrong = found.is_empty() || (!wanted.is_empty() && found != wanted);
        let field = path.trim_start_matches('/').replace('/', ".");
        wrong.then(|| {
            let wanted = if wanted.is_empty() { "set".to_owned() } else { format!("{wanted:?}") };
            format!("{field}: {found:?} must be {wanted}")
        })
    };
    fields.into_iter().filter_map(check).collect()
}

fn versions(bundle: &Bundle) -> Vec<String> {
    let check = |field: &str| {
        let found = text(&bundle.csv()["spec"][field]);
        let error = Version::parse(found).err()?;
        Some(format!("spec.{field}: {found:?} is not a semantic version: {error}"))
    };
    ["version", "minKubeVersion"].into_iter().filter_map(check).collect()
}

fn install_modes(bundle: &Bundle) -> Vec<String> {
    let spec = &bundle.csv()["spec"];
    let mut broken = Vec::new();
    let modes: Vec<&str> = items(&spec["installModes"]).map(|mode| text(&mode["type"])).collect();
    for mode in MODES {
        let count = modes.iter().filter(|found| **found == mode).count();
        if count != 1 {
            broken.push(format!("spec.installModes: {mode} is there {count} times"));
        }
    }
    let supported: Vec<&str> = items(&spec["installModes"])
        .filter(|mode| mode["supported"] == true)
        .map(|mode| text(&mode["type"]))
        .collect();
    if supported.is_empty() {
        broken.push("spec.installModes: none is supported".to_owned());
    }
    let converts = items(&spec["webhookdefinitions"]).any(|webhook| webhook["type"] == "ConversionWebhook");
    if converts && supported != ["AllNamespaces"] {
        broken.push("spec.installModes: a conversion webhook needs AllNamespaces alone".to_owned());
    }
    broken
}

fn capabilities(bundle: &Bundle) -> Vec<String> {
    let annotations = &bundle.csv()["metadata"]["annotations"];
    let mut broken = Vec::new();
    let level = text(&annotations["capabilities"]);
    if !LEVELS.contains(&level) {
        broken.push(format!("metadata.annotations: capabilities: {level:?} is not a level"));
    }
    for category in text(&annotations["categories"]).split(',').map(str::trim) {
        if !CATEGORIES.contains(&category) {
            broken.push(format!("metadata.annotations: categories: {category:?} is not a category"));
        }
    }
    broken
}

fn presentation(bundle: &Bundle) -> Vec<String> {
    let spec = &bundle.csv()["spec"];
    let mut broken = Vec::new();
    let mut need = |met: bool, message: String| {
        if !met {
            broken.push(message);
        }
    };
    need(!text(&spec["provider"]["name"]).is_empty(), "spec.provider.name: must be set".to_owned());
    for list in ["maintainers", "links", "icon", "keywords"] {
        need(items(&spec[list]).next().is_some(), format!("spec.{list}: must not be empty"));
    }
    for maintainer in items(&spec["maintainers"]) {
        let address = text(&maintainer["email"]);
        let complete = !text(&maintainer["name"]).is_empty() && address.split('@').count() == 2;
        need(complete, format!("spec.maintainers: {maintainer} needs a name and an address"));
    }
    for link in items(&spec["links"]) {
        let complete = !text(&link["name"]).is_empty() && text(&link["url"]).starts_with("https://");
        need(complete, format!("spec.links: {link} needs a name and an https address"));
    }
    for icon in items(&spec["icon"]) {
        let kind = text(&icon["mediatype"]);
        let complete = ICONS.contains(&kind) && !text(&icon["base64data"]).is_empty();
        need(complete, format!("spec.icon: a picture of type {kind:?} is not shown"));
    }
    broken
}

fn maturity(bundle: &Bundle) -> Vec<String> {
    let spec = &bundle.csv()["spec"];
    let found = text(&spec["maturity"]);
    if !UNSTABLE.contains(&found) && !STABLE.contains(&found) {
        return vec![format!("spec.maturity: {found:?} is none that is known")];
    }
    let early = Version::parse(text(&spec["version"])).is_ok_and(|version| version.major == 0);
    let claimed = early && STABLE.contains(&found);
    claimed
        .then(|| format!("spec.maturity: version {} is not {found}", spec["version"]))
        .into_iter()
        .collect()
}

fn features(bundle: &Bundle) -> Vec<String> {
    let annotations = &bundle.csv()["metadata"]["annotations"];
    let check = |feature: &str| {
        let key = format!("features.operators.openshift.io/{feature}");
        let value = text(&annotations[&key]);
        (!["true", "false"].contains(&value))
            .then(|| format!("metadata.annotations: {key}: {value:?} must be \"true\" or \"false\""))
    };
    let clouds = ["aws", "azure", "gcp"].map(|cloud| format!("token-auth-{cloud}"));
    FEATURES.into_iter().chain(clouds.iter().map(String::as_str)).filter_map(check).collect()
}
