//! Interception without privileges in the pod: a CNI plugin that container runtimes call when a pod's network is made,
//! and the node agent that installs it and does the work.
//!
//! The plugin runs on the node's own file system, where neither iptables nor the API server's address can be counted on.
//! So it only hands the pod's network namespace, an open file, to the agent, which has both.

mod agent;
mod install;
mod kube;
mod namespace;
mod plugin;
mod pod;
mod protocol;
mod repair;
mod status;

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(crate) use agent::run;
pub(crate) use plugin::main as plugin;

/// The plugin's name: its type in CNI's configuration and the name of its file.
pub(crate) const PLUGIN: &str = "istio-cni";
/// The agent's socket, in its folder.
const SOCKET: &str = "pluginevent.sock";

/// Whether the process was started as the plugin: by its name, as container runtimes do.
pub(crate) fn is_plugin(program: &str) -> bool {
    let name = std::path::Path::new(program).file_name();
    name.is_some_and(|name| name == PLUGIN || name == "lateen-cni")
}

/// `cni`'s subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum CniCommand {
    /// Run as node agent: install the plugin, keep it installed, set up pods and repair those that were missed
    Install(Box<InstallArgs>),
    /// Run as CNI plugin: the command is in CNI_COMMAND, the configuration on standard input
    Plugin,
}

/// The node agent's flags, by Istio's names and variables.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstallArgs {
    /// Name of the CNI configuration to change [default: the first in the folder]
    #[arg(long, env = "CNI_CONF_NAME", default_value = "")]
    cni_conf_name: String,
    /// Put the plugin into the network's own configuration; else write one of its own for others to name
    #[arg(long, env = "CHAINED_CNI_PLUGIN", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    chained_cni_plugin: bool,
    /// Leave the network's configuration as it is and write one that comes before it
    #[arg(long, env = "ISTIO_OWNED_CNI_CONFIG", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    istio_owned_cni_config: bool,
    /// Name of that configuration
    #[arg(
        long,
        env = "ISTIO_OWNED_CNI_CONFIG_FILENAME",
        default_value = "02-istio-cni.conflist"
    )]
    istio_owned_cni_config_filename: String,
    /// The node's folder of CNI configurations, as it is mounted here
    #[arg(long, env = "MOUNTED_CNI_NET_DIR", default_value = "/host/etc/cni/net.d")]
    mounted_cni_net_dir: PathBuf,
    /// The node's folder of CNI plugins, as it is mounted here
    #[arg(long, env = "MOUNTED_CNI_BIN_DIR", default_value = "/host/opt/cni/bin")]
    mounted_cni_bin_dir: PathBuf,
    /// Folder of the agent's socket, of one name here and on the node
    #[arg(long, env = "CNI_AGENT_RUN_DIR", default_value = "/var/run/istio-cni")]
    cni_agent_run_dir: PathBuf,
    /// The node's processes, as they are mounted here
    #[arg(long, env = "HOST_PROC", default_value = "/host/proc")]
    host_proc: PathBuf,
    /// Let a group read the configuration
    #[arg(long, env = "CNI_CONF_GROUP_READ", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    cni_conf_group_read: bool,
    /// Namespaces whose pods are left alone, comma-separated
    #[arg(long, env = "EXCLUDE_NAMESPACES", default_value = "kube-system")]
    exclude_namespaces: String,
    /// What the plugin logs
    #[arg(long, env = "LOG_LEVEL", default_value = "warn")]
    plugin_log_level: String,
    /// Rules of nftables instead of iptables
    #[arg(long, env = "NATIVE_NFTABLES", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    native_nftables: bool,
    /// Port of metrics
    #[arg(long, env = "MONITORING_PORT", default_value_t = 15014)]
    monitoring_port: u16,
    /// Port of /readyz and /healthz
    #[arg(long, env = "LATEEN_CNI_HEALTH_PORT", default_value_t = 8000)]
    health_port: u16,
    /// The API server's URL [default: the cluster's own]
    #[arg(long, env = "LATEEN_KUBE_API")]
    kube_api: Option<String>,
    /// How often to look whether the installation is still there
    #[arg(long, env = "LATEEN_CNI_CHECK_INTERVAL", default_value = "1s")]
    check_interval: String,
    /// The namespace and the name of the agent's own pod
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pod_namespace: String,
    /// The agent's own pod
    #[arg(long, env = "POD_NAME", default_value = "")]
    pod_name: String,
    #[command(flatten)]
    repair: RepairArgs,
}

/// What becomes of pods that were started without interception.
#[derive(Debug, Clone, Args)]
struct RepairArgs {
    /// Look for broken pods
    #[arg(long = "repair-enabled", env = "REPAIR_ENABLED", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    enabled: bool,
    /// Set up their interception now
    #[arg(long = "repair-repair-pods", env = "REPAIR_REPAIR_PODS", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    repair_pods: bool,
    /// Delete them, if they are not to be repaired
    #[arg(long = "repair-delete-pods", env = "REPAIR_DELETE_PODS", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    delete_pods: bool,
    /// Label them, if they are neither to be repaired nor deleted
    #[arg(long = "repair-label-pods", env = "REPAIR_LABEL_PODS", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    label_pods: bool,
    /// The label's key
    #[arg(
        long = "repair-broken-pod-label-key",
        env = "REPAIR_BROKEN_POD_LABEL_KEY",
        default_value = "cni.istio.io/uninitialized"
    )]
    label_key: String,
    /// The label's value
    #[arg(
        long = "repair-broken-pod-label-value",
        env = "REPAIR_BROKEN_POD_LABEL_VALUE",
        default_value = "true"
    )]
    label_value: String,
    /// The node whose pods to look at; all nodes' if not given
    #[arg(long = "repair-node-name", env = "NODE_NAME", default_value = "")]
    node_name: String,
    /// The annotation of pods with a sidecar
    #[arg(
        long = "repair-sidecar-annotation",
        env = "REPAIR_SIDECAR_ANNOTATION",
        default_value = "sidecar.istio.io/status"
    )]
    sidecar_annotation: String,
    /// The container that tries out interception
    #[arg(
        long = "repair-init-container-name",
        env = "REPAIR_INIT_CONTAINER_NAME",
        default_value = "istio-validation"
    )]
    container: String,
    /// What it exits with when there is none
    #[arg(
        long = "repair-init-container-exit-code",
        env = "REPAIR_INIT_CONTAINER_EXIT_CODE",
        default_value_t = 126
    )]
    exit_code: i64,
    /// Its termination message then, where one is asked for
    #[arg(
        long = "repair-init-container-termination-message",
        env = "REPAIR_INIT_CONTAINER_TERMINATION_MESSAGE",
        default_value = ""
    )]
    termination_message: String,
    /// Only pods with these labels
    #[arg(long = "repair-label-selectors", env = "REPAIR_LABEL_SELECTORS", default_value = "")]
    label_selectors: String,
    /// Only pods with these fields
    #[arg(long = "repair-field-selectors", env = "REPAIR_FIELD_SELECTORS", default_value = "")]
    field_selectors: String,
}
