//! Settings of the announcements by ARP and NDP. The speaker's manual says what each costs and guarantees.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the announcements by ARP and NDP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Layer2 {
    /// How soon a dead node is noticed: `Fast`, or `Tolerant` as upstream. By default Fast, but on nodes that stall
    /// for seconds when they are migrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// How it is looked for others that hold an address before it is announced for the first time; `Fast` when not
    /// set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_probe: Option<ConflictProbe>,
    /// What happens when another host holds the address; `Withhold` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_policy: Option<ConflictPolicy>,
    /// MAC addresses whose answers are no conflict.
    #[serde(default, rename = "conflictIgnoreMACs", skip_serializing_if = "Vec::is_empty")]
    pub conflict_ignore_macs: Vec<String>,
    /// What a node does that lost the majority of the others; `Availability` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing: Option<Fencing>,
    /// Whether an address returns to a node that is back; `Hash` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,
    /// What happens when the announcing node is cordoned; `Keep` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_policy: Option<DrainPolicy>,
    /// Gratuitous ARP and unsolicited NA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gratuitous: Option<Gratuitous>,
    /// Frames a second that an interface sends unasked; 10 when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), extend("format" = "int32"))]
    pub arp_rate_limit: Option<u16>,
    /// When it is checked on the wire that exactly the announcing node answers; `OnChange` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire_check: Option<WireCheck>,
}

/// Gratuitous ARP and unsolicited NA after a take-over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gratuitous {
    /// How many; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100), extend("format" = "int32"))]
    pub count: Option<u16>,
    /// Time between them, such as `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Time after which one more is sent, for as long as the address is announced; not at all when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<String>,
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// The value as it stands in the resource and in the speaker's flag.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }
    };
}

choice!(
    /// How soon a dead node is noticed.
    Detection {
        /// Within half a second with up to 16 nodes.
        Fast,
        /// Within seconds, as upstream.
        Tolerant
    }
);
choice!(
    /// How it is looked for others that hold an address.
    ConflictProbe {
        /// For a tenth of a second.
        Fast,
        /// As RFC 5227 says, for seconds.
        RFC5227,
        /// Not at all.
        Off
    }
);
choice!(
    /// What happens when another host holds the address.
    ConflictPolicy {
        /// It is not announced.
        Withhold,
        /// It is announced all the same.
        Announce
    }
);
choice!(
    /// What a node does that lost the majority of the others.
    Fencing {
        /// It goes on announcing, as upstream.
        Availability,
        /// It stops before another node takes over.
        Strict
    }
);
choice!(
    /// Whether an address returns to a node that is back.
    Failback {
        /// It goes where the hash says, as upstream.
        Hash,
        /// It stays where it is.
        Never
    }
);
choice!(
    /// What happens when the announcing node is cordoned.
    DrainPolicy {
        /// Nothing.
        Keep,
        /// Its addresses move.
        Move
    }
);
choice!(
    /// When it is checked on the wire that exactly the announcing node answers.
    WireCheck {
        /// After each change of owner, and round robin.
        OnChange,
        /// All the time.
        Continuous,
        /// Never.
        Off
    }
);
