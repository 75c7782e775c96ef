//! The cluster that Lateen serves.

use anyhow::{Context as _, Result};
use lateen_sources::kube::{Client, connect};

use crate::config::Config;

/// A client of the cluster's API server; none where configuration is read from files.
///
/// # Errors
/// When neither files nor a cluster can be found, with what to give.
pub(crate) async fn connect_to(config: &Config) -> Result<Option<Client>> {
    if !config.config.is_empty() {
        return Ok(None);
    }
    let client = connect(config.kubeconfig.as_deref())
        .await
        .context("give --config PATH for files, or --kubeconfig FILE for a cluster, or run in a pod of one")?;
    Ok(Some(client))
}
