//! What holds for files that are published, and not for those that are made in a tree which has released nothing, and of
//! images that are not built yet.

use serde_json::Value;

use super::install::{has_digest, used};
use super::{Bundle, Rule, text};
use crate::bundle::objects::{id, items};

/// Name of the rule that finds them.
pub(super) const PLACEHOLDERS: &str = "placeholders";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "digests",
        source: "OpenShift documentation: operators in disconnected environments, `image references by digest and not by \
                 tag`",
        check: digests,
    },
    Rule {
        name: PLACEHOLDERS,
        source: "RFC 2606, 2 and RFC 6761, 6.3: `.invalid` and `localhost` are nobody's; docs: required CSV metadata, \
                 createdAt, maintainers and links",
        check: placeholders,
    },
];

fn digests(bundle: &Bundle) -> Vec<String> {
    let tagged = used(bundle).into_iter().filter(|image| !has_digest(image));
    tagged.map(|image| format!("image {image:?} has no digest")).collect()
}

/// Whether a text speaks of a host that only stands in for one.
fn stands_in(text: &str) -> bool {
    let ends =
        |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || "-.".contains(next));
    text.starts_with("localhost/")
        || text.starts_with("localhost:")
        || text.match_indices(".invalid").any(|(at, found)| ends(&text[at + found.len()..]))
}

fn placeholders(bundle: &Bundle) -> Vec<String> {
    let csv = bundle.csv();
    let (annotations, spec) = (&csv["metadata"]["annotations"], &csv["spec"]);
    let mut said: Vec<(String, &str)> = vec![
        ("metadata.annotations.repository".to_owned(), text(&annotations["repository"])),
        ("spec.provider.url".to_owned(), text(&spec["provider"]["url"])),
    ];
    let lists = [("links", "url"), ("maintainers", "email"), ("relatedImages", "image")];
    for (list, field) in lists {
        let of = items(&spec[list])
            .map(|item| (format!("spec.{list}: {}", text(&item["name"])), text(&item[field])));
        said.extend(of);
    }
    for (file, objects) in &bundle.applied {
        let of = |object: &Value, image: &'static str| {
            object.pointer(image).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        for object in objects {
            for path in ["/spec/image", "/spec/source/image/ref"] {
                let image = of(object, path);
                if stands_in(&image) {
                    // The first that is wrong is enough to know which setting is.
                    return vec![format!(
                        "{file}: {}: {image:?} is in no registry: set IMAGE_PREFIX in config/manager/images.env",
                        id(object)
                    )];
                }
            }
        }
    }
    let mut broken: Vec<String> = said
        .into_iter()
        .filter(|(_, value)| stands_in(value))
        .map(|(field, value)| {
            format!("{field}: {value:?} stands in for the project's own: config/manifests/project.env")
        })
        .collect();
    if text(&annotations["createdAt"]).is_empty() {
        broken.push("metadata.annotations: createdAt must be set: the version is not released".to_owned());
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_nobody_stand_in() {
        for (text, want) in [
            ("localhost/metallb/operator:0.1.0", true),
            ("localhost:5000/metallb/operator:0.1.0", true),
            ("https://placeholder.invalid/metallb", true),
            ("maintainers@placeholder.invalid", true),
            ("registry.example:5000/localhost/operator", false),
            ("https://placeholder.invalid.example/", false),
            ("https://metallb.example/", false),
            ("https://host.invalidated.example/", false),
            ("", false),
        ] {
            assert_eq!(stands_in(text), want, "{text}");
        }
    }
}
