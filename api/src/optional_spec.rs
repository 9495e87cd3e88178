//! Objects whose `spec` may be absent.
//!
//! The API server accepts `kind: L2Advertisement` with no spec at all, and such an object must not make a whole list
//! unreadable. The derived root types have a plain `spec` field, so the leniency sits in the spec's `Deserialize`.

/// Implements `Serialize` and `Deserialize` for a spec whose derives are marked `#[serde(remote = "Self")]`: an absent
/// or null spec reads as the default one.
macro_rules! optional_spec {
    ($spec:ident) => {
        impl serde::Serialize for $spec {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $spec {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<$spec, D::Error> {
                    $spec::deserialize(deserializer)
                }
                #[derive(serde::Deserialize)]
                struct Present(#[serde(deserialize_with = "present")] $spec);
                let present = Option::<Present>::deserialize(deserializer)?;
                Ok(present.map(|present| present.0).unwrap_or_default())
            }
        }
    };
}

pub(crate) use optional_spec;
