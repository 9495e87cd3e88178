//! The closed list of reasons.

use crate::health::Cause;

/// One list of the reasons and of how each stands in a condition.
macro_rules! reasons {
    ($($reason:ident => $text:literal,)*) => {
        /// Why a condition says what it says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the identifier is what users see")]
        pub enum Reason {
            $($reason,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            /// As it stands in a condition.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => $text,)*
                }
            }
        }
    };
}

reasons! {
    Available => "Available",
    Upgradeable => "Upgradeable",
    Progressing => "Progressing",
    Degraded => "Degraded",
    Ready => "Ready",
    NotInstalled => "NotInstalled",
    ControllerNotReady => "ControllerNotReady",
    NoSpeakerWanted => "NoSpeakerWanted",
    SpeakersNotReady => "SpeakersNotReady",
    Applying => "Applying",
    RollingOut => "RollingOut",
    Starting => "Starting",
    IncorrectMetalLbResourceName => "IncorrectMetalLBResourceName",
    InvalidSpec => "InvalidSpec",
    IpFailoverPresent => "IPFailoverPresent",
    ForeignLoadBalancer => "ForeignLoadBalancer",
    ApplyFailed => "ApplyFailed",
    Contested => "Contested",
    WatchFailed => "WatchFailed",
    ImagePullFailed => "ImagePullFailed",
    CrashLooping => "CrashLooping",
    ContainerConfigInvalid => "ContainerConfigInvalid",
    PodUnschedulable => "PodUnschedulable",
    PodRefused => "PodRefused",
    PodNotReady => "PodNotReady",
    Invalid => "Invalid",
    Conflict => "Conflict",
    IpFailoverAbsent => "IPFailoverAbsent",
    NotLookedFor => "NotLookedFor",
    NoConflict => "NoConflict",
    Converted => "Converted",
    InNodeSubnet => "InNodeSubnet",
    OutsideNodeSubnets => "OutsideNodeSubnets",
    Compatible => "Compatible",
    Incompatible => "Incompatible",
    LegacyConfigFound => "LegacyConfigFound",
    LegacyConfigInvalid => "LegacyConfigInvalid",
    LegacyConfigImported => "LegacyConfigImported",
    Managed => "Managed",
    Unmanaged => "Unmanaged",
    WaitingForApproval => "WaitingForApproval",
    UpgradeStalled => "UpgradeStalled",
    UpgradeFailed => "UpgradeFailed",
    RequirementsMissing => "RequirementsMissing",
    BgpInUse => "BGPInUse",
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::ImagePull => Self::ImagePullFailed,
            Cause::CrashLoop => Self::CrashLooping,
            Cause::ContainerConfig => Self::ContainerConfigInvalid,
            Cause::Unschedulable => Self::PodUnschedulable,
            Cause::PodRefused => Self::PodRefused,
            Cause::NotReady => Self::PodNotReady,
        }
    }
}
