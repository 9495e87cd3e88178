//! Command lines that were written for MetalLB.
//!
//! Its flags that mean nothing here, and any that are unknown, are named in the log and otherwise ignored.

use std::ffi::OsString;

use clap::Command;

/// Parts the arguments that this program knows from others, and spells `-flag` as `--flag`, both of which Go takes.
pub(crate) fn sort_out(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> (Vec<OsString>, Vec<String>) {
    // The long name of a flag, given long or short.
    let long = |name: &str| {
        let is_short =
            |argument: &clap::Arg| argument.get_short().is_some_and(|short| name.chars().eq([short]));
        let known = |argument: &&clap::Arg| argument.get_long() == Some(name) || is_short(argument);
        match name {
            "help" | "h" => Some("help".to_owned()),
            "version" => Some("version".to_owned()),
            _ => command.get_arguments().find(known)?.get_long().map(str::to_owned),
        }
    };
    let mut args = args.into_iter().peekable();
    let mut known: Vec<OsString> = args.next().into_iter().collect();
    let mut unused = Vec::new();
    while let Some(argument) = args.next() {
        let text = argument.to_string_lossy().into_owned();
        let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
            unused.push(text);
            continue;
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let takes_next = value.is_none() && !matches!(name, "help" | "version");
        let next =
            takes_next.then(|| args.next_if(|next| !next.to_string_lossy().starts_with('-'))).flatten();
        if let Some(name) = long(name) {
            known.push(match value {
                Some(value) => format!("--{name}={value}").into(),
                None => format!("--{name}").into(),
            });
            known.extend(next);
        } else {
            unused.push(text.clone());
        }
    }
    (known, unused)
}
