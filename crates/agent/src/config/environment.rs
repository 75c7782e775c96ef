//! The environment as a value, and the facts about the machine that are read beside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;

use super::parse_duration;

/// The process's environment, or one that a test made up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

// === impl Environment ===

impl Environment {
    /// The process's; variables that are not UTF-8 are left out.
    pub(crate) fn from_process() -> Self {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// Adds variables that are not set.
    pub(crate) fn with_defaults(mut self, defaults: BTreeMap<String, String>) -> Self {
        for (key, value) in defaults {
            self.0.entry(key).or_insert(value);
        }
        self
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// `true` or `false`, in any of Go's spellings.
    pub(crate) fn flag(&self, key: &str, default: bool) -> anyhow::Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => anyhow::bail!("{key} `{other}`: must be true or false"),
        }
    }

    /// A number.
    pub(crate) fn number<T>(&self, key: &str, default: T) -> anyhow::Result<T>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.get(key).map_or(Ok(default), |value| {
            value
                .parse()
                .with_context(|| format!("{key} `{value}`: must be a number"))
        })
    }

    /// A duration, as [`parse_duration`] reads it.
    pub(crate) fn duration(&self, key: &str, default: Duration) -> anyhow::Result<Duration> {
        self.get(key).map_or(Ok(default), |value| {
            parse_duration(value).with_context(|| key.to_owned())
        })
    }

    /// The variables whose name begins with `prefix`, without it.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<(String, String)> {
        let strip = |(key, value): (&str, &str)| Some((key.strip_prefix(prefix)?.to_owned(), value.to_owned()));
        self.iter().filter_map(strip).collect()
    }

    /// Labels given by `ISTIO_METAJSON_LABELS`.
    pub(crate) fn labels(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let Some(text) = self.get("ISTIO_METAJSON_LABELS") else {
            return Ok(BTreeMap::new());
        };
        serde_json::from_str(text).context("ISTIO_METAJSON_LABELS: must be a JSON object of strings")
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> From<[(K, V); N]> for Environment {
    fn from(variables: [(K, V); N]) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

/// Labels or annotations as the downward API writes them, `key="quoted value"` a line; none when there is no file.
///
/// # Errors
/// When the file is there but cannot be read.
pub(crate) fn downward_api(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let unquoted = pairs.filter_map(|(key, value)| {
        // Go quotes like JSON, but for a few control characters that are not worth the process.
        let value = serde_json::from_str(value)
            .inspect_err(|error| tracing::warn!(%error, file = %path.display(), key, "value is not quoted, left out"));
        Some((key.to_owned(), value.ok()?))
    });
    Ok(unquoted.collect())
}

/// Addresses of this network namespace's interfaces, without loopback and link-local ones.
pub(crate) fn interface_ips() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie")
        .map(|text| local_ipv4(&text))
        .unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6")
        .map(|text| global_ipv6(&text))
        .unwrap_or_default();
    v4.into_iter()
        .map(IpAddr::V4)
        .chain(v6.into_iter().map(IpAddr::V6))
        .collect()
}

fn local_ipv4(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(ip) = last
            && !ip.is_loopback()
            && !ip.is_link_local()
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    found
}

fn global_ipv6(if_inet6: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let bits = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(Ipv6Addr::from(bits))
    };
    let usable = |ip: &Ipv6Addr| !ip.is_loopback() && !ip.is_unicast_link_local();
    if_inet6.lines().filter_map(address).filter(usable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_proc() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.0.5\n        /32 host LOCAL\n     |-- 127.0.0.1\n        \
            /32 host LOCAL\nLocal:\n     |-- 10.1.0.5\n        /32 host LOCAL\n     |-- 10.1.0.255\n        /32 link BROADCAST\n";
        assert_eq!(local_ipv4(trie), [Ipv4Addr::new(10, 1, 0, 5)]);
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe800000000000000042acfffe110002 02 40 20 80     eth0\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(global_ipv6(inet6), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn values_are_checked() {
        let environment = Environment::from([("A", "yes"), ("B", "x"), ("C", "5"), ("D", "")]);
        assert!(
            environment
                .flag("A", false)
                .unwrap_err()
                .to_string()
                .contains("A `yes`")
        );
        assert!(
            environment
                .number("B", 1_u16)
                .unwrap_err()
                .to_string()
                .contains("B `x`")
        );
        assert!(environment.duration("C", Duration::ZERO).is_err());
        assert!(environment.flag("D", true).unwrap());
    }

    #[test]
    fn the_downward_api_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("annotations");
        std::fs::write(&path, "a=\"1\"\nb=\"say \\\"hi\\\"\\nthere\"\n").unwrap();
        let read = downward_api(&path).unwrap();
        assert_eq!(read["b"], "say \"hi\"\nthere");
        assert!(downward_api(&dir.path().join("none")).unwrap().is_empty());
    }
}
