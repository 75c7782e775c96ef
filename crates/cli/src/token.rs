//! `lateen token`: proofs of identity where there is no cluster that issues them.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use lateen_ca::TokenIssuer;
use lateen_names::{Namespace, ServiceAccount};
use serde_json::json;

use crate::print::Output;

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Sign a token with which a workload proves its identity to the certificate authority
    ///
    /// The table format is the bare token, fit for a file that an agent reads.
    Create(Create),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Namespace of the workload
    #[arg(short, long, value_name = "NAME")]
    namespace: Namespace,

    /// Service account of the workload
    #[arg(short, long, value_name = "NAME")]
    service_account: ServiceAccount,

    /// How long the token is good for
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    ttl: Duration,

    /// The control plane's --data-dir: its signing key is in it
    #[arg(long, value_name = "DIR", env = "LATEEN_DATA_DIR", default_value = "/var/lib/lateen")]
    data_dir: PathBuf,

    #[command(flatten)]
    output: Output,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 1h or 30m"))?;
    if ttl < Duration::from_secs(1) {
        return Err("a token must be good for a second at least".to_owned());
    }
    Ok(ttl)
}

impl Token {
    pub(crate) fn run(self) -> Result<()> {
        let Self::Create(create) = self;
        create.run(SystemTime::now())
    }
}

impl Create {
    fn run(self, now: SystemTime) -> Result<()> {
        let Some(expires) = now.checked_add(self.ttl) else {
            bail!("--ttl {} is too long", humantime::format_duration(self.ttl))
        };
        let directory = self.data_dir.join("tokens");
        let new = !directory.exists();
        let issuer = TokenIssuer::open_or_create(&directory).with_context(|| {
            format!(
                "cannot use the signing key in {}; give --data-dir as lateend has it",
                directory.display()
            )
        })?;
        if new {
            let data_dir = self.data_dir.display();
            eprintln!("made a new signing key; tokens are good where lateend runs with --data-dir {data_dir}");
        }
        let token = issuer.issue(&self.namespace, &self.service_account, self.ttl, now)?;
        let value = json!({
            "token": token,
            "issuer": issuer.issuer(),
            "subject": format!("system:serviceaccount:{}:{}", self.namespace, self.service_account),
            "expires": humantime::format_rfc3339_seconds(expires).to_string(),
        });
        self.output.write(&value, || format!("{token}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_checked() {
        assert_eq!(ttl("90m"), Ok(Duration::from_secs(5400)));
        assert!(ttl("0s").unwrap_err().contains("at least"));
        assert!(ttl("soon").unwrap_err().contains("1h"));
    }
}
