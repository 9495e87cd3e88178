//! What arrives on a host, counted by its kernel before anything else sees it.

use anyhow::{Context, Result};
use metallb_e2e::exec::{on, output, run_on};
use serde_json::Value;

/// A table of counters on a host, which ends with this value.
pub(crate) struct Counted(&'static str);

impl Counted {
    fn table(host: &'static str) -> Self {
        let counted = Self(host);
        run_on(host, "nft add table inet counted").unwrap();
        run_on(host, "nft add chain inet counted in { type filter hook prerouting priority -310 ; }")
            .unwrap();
        counted
    }

    /// Counts the packets that match each of these expressions of nft.
    pub(crate) fn packets_of(host: &'static str, expressions: &[&str]) -> Self {
        let counted = Self::table(host);
        for expression in expressions {
            run_on(host, &format!("nft add rule inet counted in {expression} counter")).unwrap();
        }
        counted
    }

    /// Collects the source ports of the TCP segments that match an expression.
    pub(crate) fn ports_of(host: &'static str, expression: &str) -> Self {
        let counted = Self::table(host);
        run_on(host, "nft add set inet counted ports { type inet_service ; flags dynamic ; size 65535 ; }")
            .unwrap();
        run_on(host, &format!("nft add rule inet counted in {expression} update @ports {{ tcp sport }}"))
            .unwrap();
        counted
    }

    /// How many packets matched each expression.
    pub(crate) fn packets(&self) -> Result<Vec<u64>> {
        let rules = self.list("chain inet counted in")?;
        let counter = |rule: &Value| {
            let mut parts = rule["rule"]["expr"].as_array()?.iter();
            parts.find_map(|part| part["counter"]["packets"].as_u64())
        };
        Ok(rules.iter().filter_map(counter).collect())
    }

    /// The source ports that were seen.
    pub(crate) fn ports(&self) -> Result<Vec<u64>> {
        let found = self.list("set inet counted ports")?;
        let set = found.iter().find_map(|part| part.get("set")).context("no set")?;
        Ok(set["elem"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect())
    }

    fn list(&self, what: &str) -> Result<Vec<Value>> {
        let said = output(on(self.0, "nft").args(["-j", "list"]).args(what.split_whitespace()))?;
        let mut said: Value = serde_json::from_str(&said)?;
        Ok(serde_json::from_value(said["nftables"].take())?)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let removed = run_on(self.0, "nft delete table inet counted");
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}
