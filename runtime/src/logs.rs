//! Logs as one JSON object a line on standard output, with the keys that users of MetalLB grep for: `caller`, `level` and
//! `ts` first, and then the event's own fields and `msg`, sorted by name. So the words that guides print of a line, such as
//! `"event":"ipAllocated","ip":"172.22.0.201","msg":"IP address assigned by controller"`, stand in it together.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde_json::Value;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// How much is logged: the values of the flag `--log-level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    All,
    /// Per packet and per object.
    Debug,
    /// What an administrator acts on.
    #[default]
    Info,
    /// Warnings and errors.
    Warn,
    /// Errors.
    Error,
    /// Nothing.
    None,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "none" => Ok(Self::None),
            other => Err(format!("{other:?} is not one of all, debug, info, warn, error, none")),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::None => "none",
        })
    }
}

impl LogLevel {
    fn filter(self) -> LevelFilter {
        match self {
            Self::All => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
            Self::None => LevelFilter::OFF,
        }
    }
}

/// Sends the program's logs to standard output from now on. A second call changes nothing.
pub fn init(level: LogLevel) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level.filter())
        .with_writer(std::io::stdout)
        .event_format(JsonLines { now: jiff::Timestamp::now })
        .finish();
    // Fails only when a subscriber is set already: then that one stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct JsonLines {
    now: fn() -> jiff::Timestamp,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        let caller = metadata.file().zip(metadata.line()).map(|(file, line)| {
            let name = file.rsplit('/').next().unwrap_or(file);
            ("caller", Value::from(format!("{name}:{line}")))
        });
        let level = ("level", Value::from(metadata.level().as_str().to_ascii_lowercase()));
        let ts = ("ts", Value::from((self.now)().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        let first = caller.into_iter().chain([level, ts]);
        let own = fields.0.into_iter().filter(|(key, _)| !["caller", "level", "ts"].contains(key));
        let members = first.chain(own).map(|(key, value)| format!("{}:{value}", Value::from(key)));
        writeln!(writer, "{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}

struct Fields(BTreeMap<&'static str, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(if field.name() == "message" { "msg" } else { field.name() }, value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_the_keys_that_support_scripts_grep_for() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LogLevel::Info.filter())
            .with_writer(move || writer.clone())
            .event_format(JsonLines { now: || jiff::Timestamp::UNIX_EPOCH })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("not shown at info");
            let ip = std::net::Ipv4Addr::new(172, 22, 0, 201);
            tracing::info!(event = "ipAllocated", %ip, count = 1, "IP address assigned by controller");
        });
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let (before, after) = written.split_once(",\"level\"").unwrap();
        assert!(before.starts_with("{\"caller\":\"logs.rs:"), "{written}");
        assert_eq!(
            after,
            ":\"info\",\"ts\":\"1970-01-01T00:00:00Z\",\"count\":1,\"event\":\"ipAllocated\",\"ip\":\"172.22.0.201\",\
             \"msg\":\"IP address assigned by controller\"}\n"
        );
        let line: BTreeMap<String, Value> = serde_json::from_str(&written).unwrap();
        assert_eq!(line.len(), 7, "{written}");
    }

    #[test]
    fn levels_read_back_what_they_print() {
        for name in ["all", "debug", "info", "warn", "error", "none"] {
            assert_eq!(name.parse::<LogLevel>().map(|level| level.to_string()), Ok(name.to_owned()));
        }
        assert_eq!(
            "INFO".parse::<LogLevel>(),
            Err("\"INFO\" is not one of all, debug, info, warn, error, none".to_owned())
        );
    }
}
